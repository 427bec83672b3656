"""Keep other accounts of a machine away from the interfaces that Flower opens on the loopback address.

Everybody with an account on the machine can connect to them. Flower's Control interface, which starts runs and admits
keys, authenticates nobody. Its Runtime interface gives tasks, and the tokens for everything else, to the first caller.
Here both require a secret. It is in a file that only the server's account can read, or is never written at all.
"""

from __future__ import annotations

import hmac
from pathlib import Path

import httpx
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from feddat.deploy.asgi import App, Receive, Scope, Send, refuse
from feddat.files import secret

#: Requests to paths under this one need the token.
CONTROL = "/v1/control/"
HEADER = "x-feddat-control"
#: Secret files in a SuperLink's state: one for the Control interface, one for taking tasks.
CONTROL_FILE, TASKS_FILE = "control.token", "tasks.secret"
#: Flower's name for the method that hands out tasks.
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class OnlyWithToken:
    """ASGI middleware that answers 401 to requests to the Control interface without the token.

    Args:
        app: the app that answers all other requests.
        token: the SuperLink's token.
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
    """Add a SuperLink's token to every request. It is read for each request, since the SuperLink creates it later.

    Args:
        file: file of the token.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Send a request with the token, if there is one."""
        if self._file.is_file():
            context.request.headers[HEADER] = secret(self._file).hex()
        return call_next(context)


def task_signer(key: bytes) -> SuperExecAuthHttpInterceptor:
    """Return an interceptor that signs requests for tasks with the key of the side that hands them out."""
    return SuperExecAuthHttpInterceptor(master_secret=key, protected_methods=[_ACQUIRE])
