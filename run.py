"""Serves the demo app from the checkout: `python run.py`, options as for `python -m keepalive serve`."""

import sys

from keepalive.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]], demo=True))
