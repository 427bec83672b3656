"""What can go wrong with a sum."""


class SumError(ValueError):
    """An attempt at a sum cannot go on, or what arrived does not fit; the message says why, in one line."""


class SpoiledError(SumError):
    """A client's own secret cannot be had from the others, though enough of them are there: it sealed no good shares.

    Attributes:
        client: whose.
    """

    def __init__(self, client: str, reason: str) -> None:
        super().__init__(f"client {client}'s secret: {reason}")
        self.client = client
