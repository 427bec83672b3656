"""All that a client with its own file tells the server about a problem; the reason is in the client's log.

Imports nothing heavy: the process of a node also answers with a code.
"""

from __future__ import annotations

from feddat.app.versions import PROTOCOL, VERSION

REFUSED, OTHER_MODEL, FAILED = "refused: policy", "refused: another model or other settings", "failed: see its log"
#: Replies to a server with another version, and to one that has received later training than the client's state holds.
OTHER_VERSION = f"refused: another version of feddat (here {VERSION}, messages {PROTOCOL})"
OLD_STATE = "refused: its state is older than its last training"
#: Reply if a certificate for secure sums, its own or another client's, is missing, not valid, or revoked.
CERTIFICATE = "refused: a client's certificate"
