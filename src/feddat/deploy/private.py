"""What keeps other accounts of a machine from the interfaces that Flower opens on its loopback address for itself.

Everybody with an account here can connect to them. Flower's Control interface (start a run, let a key in) asks nobody
who he is; its Runtime interface hands tasks, with the tokens for all else, to whoever asks first. Here either asks for
a secret that lies in a file of the account that runs the server, or is never written at all.
"""

from __future__ import annotations

import hmac
from pathlib import Path

import httpx
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from feddat.deploy.asgi import App, Receive, Scope, Send, refuse
from feddat.files import secret

#: Below these paths a request needs the token.
CONTROL = "/v1/control/"
HEADER = "x-feddat-control"
#: Files of a SuperLink's state: who may ask for what it has been told to do, and who takes its tasks.
CONTROL_FILE, TASKS_FILE = "control.token", "tasks.secret"
#: Flower's name for the method that hands out tasks.
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class OnlyWithToken:
    """ASGI middleware: requests to the Control interface without the token are answered with 401.

    Args:
        app: what answers the others.
        token: the SuperLink's.
    """

    def __init__(self, app: App, token: bytes) -> None:
        self._app, self._token = app, token.hex().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith(CONTROL):
            found = [value for key, value in scope["headers"] if key.lower() == HEADER.encode()]
            if len(found) != 1 or not hmac.compare_digest(found[0], self._token):
                await refuse(send, 401, b"only with the token in the state folder of the server")
                return
        await self._app(scope, receive, send)


class TokenInterceptor:
    """Puts the token of a SuperLink on every request; it is read as each is made, for the SuperLink makes it itself.

    Args:
        file: of the token.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Send a request with the token, if there is one."""
        if self._file.is_file():
            context.request.headers[HEADER] = secret(self._file).hex()
        return call_next(context)


def task_signer(key: bytes) -> SuperExecAuthHttpInterceptor:
    """Return what signs requests for tasks, with a key that whoever hands them out knows."""
    return SuperExecAuthHttpInterceptor(master_secret=key, protected_methods=[_ACQUIRE])
