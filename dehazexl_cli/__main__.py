"""The program `dehazexl`, also as `python -m dehazexl_cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from dehazexl_cli.cli import main as run
    except KeyboardInterrupt:  # nobody else is there yet to put it into words
        sys.stderr.write("error: stopped by Ctrl-C\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
