"""``python -m feddat``: the ``feddat`` script where it is not on the path."""

from feddat.cli.main import main

if __name__ == "__main__":
    main()
