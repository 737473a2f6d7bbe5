"""`python -m delora_sd` is `delora-sd`."""

import sys

from delora_sd.cli import main

if __name__ == "__main__":
    sys.exit(main())
