"""``python -m botsessions.cli``: the command line without its script."""

import sys

from botsessions.cli import main

if __name__ == "__main__":
    sys.exit(main())
