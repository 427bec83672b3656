"""The error of an audit."""


class AuditError(ValueError):
    """An audit is impossible; the message names the client, setting or folder, and what was expected."""
