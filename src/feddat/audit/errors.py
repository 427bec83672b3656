"""What stops an audit."""


class AuditError(ValueError):
    """An audit cannot be made; the message names the client, setting or folder, and what was expected."""
