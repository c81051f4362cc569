"""`python -m darts_msft_command`, where the command isn't on the path."""

import sys

from darts_msft_command import main

sys.exit(main())
