"""The error of a deployment as a whole."""


class DeployError(RuntimeError):
    """A deployment cannot be set up, started or reached; the message says what is missing."""
