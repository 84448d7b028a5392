"""`python -m advlog_fast` is `advlog`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
