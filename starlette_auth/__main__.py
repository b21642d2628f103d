"""`python -m starlette_auth`: the command line."""

import sys

from .cli import main

sys.exit(main())
