from typing import Any

# cffi makes both from csrc/advlog_api.h and csrc/spool_api.h, which are their documentation.
ffi: Any
lib: Any
