"""Errors of secure sums."""


class SumError(ValueError):
    """An attempt at a sum cannot go on, or a message has the wrong form; the error says why in one line."""


class SpoiledError(SumError):
    """A client's secret cannot be rebuilt although enough others revealed their shares: it sealed wrong ones.

    Attributes:
        client: the client that sealed them.
    """

    def __init__(self, client: str, reason: str) -> None:
        super().__init__(f"client {client}'s secret: {reason}")
        self.client = client
