"""`python -m lorascope`."""

import sys

from lorascope.cli.main import main

sys.exit(main())
