"""`python -m dehazexl_cli` is the command `dehazexl`."""

from dehazexl_cli.cli import main

if __name__ == "__main__":
    main()
