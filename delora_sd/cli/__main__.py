"""`python -m delora_sd.cli` is `delora-sd`."""

import sys

from delora_sd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
