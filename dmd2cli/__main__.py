"""python -m dmd2cli is the dmd2 command."""

from dmd2cli.cli.app import main

if __name__ == "__main__":
    main()
