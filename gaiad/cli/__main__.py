"""`python -m gaiad.cli`: the same as `gaiadctl`."""

import sys

from gaiad.cli.main import main

sys.exit(main())
