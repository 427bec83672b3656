"""Check the sender and the size of a request to a SuperLink before reading its body.

Flower reads and parses the whole body of a request before it checks the signature in its headers. Anybody who can open
a connection could therefore fill the server's memory.
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
#: The largest body of a request, in bytes. Flower sends arrays in chunks of five megabytes.
MOST_BODY = 16 * 2**20
#: Seconds that a body can take to arrive; the largest body needs 140 kilobytes per second.
BODY_SECONDS = 120.0
#: How many bytes of a header's value to look at.
_MOST_VALUE = 4096


class TooLarge(Exception):
    """A body exceeds its size limit."""


class TooSlow(Exception):
    """A body does not arrive within its time limit."""


class BoundedBodies:
    """ASGI middleware that refuses client requests without a known key's signature, or with a large or slow body.

    Args:
        app: the app that answers all other requests.
        knows: public key as bytes -> whether the SuperLink has admitted it; ``None``: the SuperLink admits anybody.
        most: the largest body, in bytes.
        seconds: the longest time for a body to arrive.
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
                # Flower's own answer to an unknown key; after any other answer a node ends without saying why.
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
        """Wrap ``receive`` to enforce the size and time limits; a body need not announce its length."""
        size, whole = 0, False
        until = asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Any:
            nonlocal size, whole
            if whole:  # the next message says that the connection has closed
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
    """Return whether a request's headers have a known key's signature of a recent time stamp, as Flower requires.

    Args:
        head: headers of a request, with names in lower case.
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
