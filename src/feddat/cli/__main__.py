"""``python -m feddat.cli``: run the ``feddat`` script when it is not on the path."""

from feddat.cli.program import main

if __name__ == "__main__":
    main()
