"""``python -m feddat``: the same as the ``feddat`` script, for when that is not on the path."""

from feddat.cli.program import main

if __name__ == "__main__":
    main()
