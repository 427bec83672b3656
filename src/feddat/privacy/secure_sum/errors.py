"""What can go wrong with a sum."""


class SumError(ValueError):
    """An attempt at a sum cannot go on, or what arrived does not fit; the message says why, in one line."""
