"""`python -m ltx` is the command `ltx`."""

import sys

from ltx.cli import main

if __name__ == "__main__":
    sys.exit(main())
