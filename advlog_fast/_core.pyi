from typing import Any

# cffi makes both from csrc/advlog_api.h, which is their documentation.
ffi: Any
lib: Any
