"""`python -m stn.cli` is `stn`."""

import sys

from . import main

sys.exit(main())
