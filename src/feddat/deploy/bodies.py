"""Bodies of requests to a SuperLink: whose they are is known, and how large they are, before they are read.

Flower reads and parses the whole body of a request before it looks at the signature that stands in its head, so that
anybody who can open a connection could fill the server's memory.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any

from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from feddat.deploy.asgi import App, Receive, Scope, Send, refuse

FLEET = "/v1/fleet/"
_ACTIVATE = f"{FLEET}activate-node"
_NOT_ACTIVATED = json.dumps(
    FlowerError(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED, "").to_json("Failed to activate SuperNode.")
).encode()
#: Bytes of a request's body: Flower sends arrays in pieces of five megabytes.
MOST_BODY = 16 * 2**20
#: Seconds for a body: of the largest, 140 kilobytes a second.
BODY_SECONDS = 120.0
#: Bytes of a head's values that are looked at.
_MOST_VALUE = 4096


class TooLarge(Exception):
    """A body goes on beyond what it may have."""


class TooSlow(Exception):
    """A body does not come in the time that it may take."""


class BoundedBodies:
    """ASGI middleware: clients' requests without a known key's signature, or with too large a body, are not read.

    A body that is not whole in time is read no further.

    Args:
        app: what answers the others.
        knows: public key, as its bytes, -> whether the SuperLink let it in; ``None``: it lets in whoever comes.
        most: bytes of a body.
        seconds: for a body.
    """

    def __init__(
        self,
        app: App,
        knows: Callable[[bytes], bool] | None,
        most: int = MOST_BODY,
        seconds: float = BODY_SECONDS,
    ) -> None:
        self._app, self._knows, self._most, self._seconds = app, knows, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or not scope["path"].startswith(FLEET):
            await self._app(scope, receive, send)
            return
        head = {key.decode("latin-1").lower(): value[:_MOST_VALUE] for key, value in scope["headers"]}
        if self._knows is not None and not await asyncio.to_thread(is_signed, head, self._knows):
            if scope["path"] == _ACTIVATE:
                # Flower's own answer to a key that it does not know: a node ends at any other without saying why.
                await refuse(send, 412, _NOT_ACTIVATED)
            else:
                await refuse(send, 401, b"no signature of a key that is known here")
            return
        announced = head.get("content-length", b"0")
        if not announced.isdigit() or int(announced) > self._most:
            await refuse(send, 413, b"too large")
            return
        begun = False

        async def noting(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, self._counted(receive), noting)
        except (TooLarge, TooSlow) as error:
            if not begun:
                await refuse(send, *((413, b"too large") if isinstance(error, TooLarge) else (408, b"too slow")))

    def _counted(self, receive: Receive) -> Receive:
        """Return what receives a body that may announce no length, and stops where it is too large."""
        size, whole = 0, False
        until = asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Any:
            nonlocal size, whole
            if whole:  # what comes now is that the connection is gone
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise TooSlow from None
            whole = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._most:
                raise TooLarge
            return message

        return counted


def is_signed(head: Mapping[str, bytes], knows: Callable[[bytes], bool]) -> bool:
    """Tell whether a request's head has a known key's signature of a time stamp of these minutes, as Flower wants it.

    Args:
        head: of a request, names in small letters.
        knows: public key -> whether it is known.
    """
    try:
        key = b64decode(head[FLEET_HTTP_PUBLIC_KEY_HEADER.lower()], validate=True)
        signature = b64decode(head[FLEET_HTTP_SIGNATURE_HEADER.lower()], validate=True)
        stamp = head[TIMESTAMP_HEADER.lower()]
        age = (now() - datetime.datetime.fromisoformat(stamp.decode("ascii"))).total_seconds()
        if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            return False
        return knows(key) and verify_signature(bytes_to_public_key(key), stamp, signature)
    except (KeyError, ValueError, TypeError):
        return False
