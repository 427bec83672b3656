"""Decode compressed frames for pydicom with imagecodecs (libjpeg-turbo, CharLS, OpenJPEG, OpenJPH) in a child process.

Damaged frames can make these libraries crash their process or compute for minutes. So they run in a child process with
limits set by the operating system (:mod:`feddat.pictures.dicom_child`). If it ends, the frame cannot be decoded, and
the next frame gets a new process.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np

from feddat.pictures.pixels import Values

#: Name of these decoders in pydicom.
PLUGIN = "feddat"
#: Transfer syntax -> codec of the child process.
CODECS = {
    "1.2.840.10008.1.2.4.51": "jpeg",
    "1.2.840.10008.1.2.4.57": "jpeg",
    "1.2.840.10008.1.2.4.70": "jpeg",
    "1.2.840.10008.1.2.4.80": "jpegls",
    "1.2.840.10008.1.2.4.81": "jpegls",
    "1.2.840.10008.1.2.4.90": "jpeg2k",
    "1.2.840.10008.1.2.4.91": "jpeg2k",
    "1.2.840.10008.1.2.4.201": "htj2k",
    "1.2.840.10008.1.2.4.202": "htj2k",
    "1.2.840.10008.1.2.4.203": "htj2k",
}
DECODER_DEPENDENCIES = dict.fromkeys(CODECS, ("imagecodecs",))
_JPEG_2000 = ("jpeg2k", "htj2k")
#: Lossy JPEG of 8 or 12 bits, whose decoder returns RGB.
_EXTENDED = "1.2.840.10008.1.2.4.51"


def register() -> None:
    """Register these decoders with pydicom, once."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    with _lock:
        for syntax in CODECS.keys() - _registered:
            get_decoder(UID(syntax)).add_plugin(PLUGIN, (__name__, "decode_frame"))
            _registered.add(syntax)


def is_available(uid: str) -> bool:
    """Return whether a transfer syntax can be decoded. Called by pydicom."""
    return uid in CODECS and importlib.util.find_spec("imagecodecs") is not None


def decode_frame(src: bytes, runner: Any) -> bytes:
    """Return the decoded bytes of a frame and set their format in ``runner``. Called by pydicom.

    Args:
        src: the compressed frame.
        runner: pydicom's ``DecodeRunner``.

    Raises:
        ValueError: the frame cannot be decoded, or its size differs from the header's.
    """
    codec = CODECS[runner.transfer_syntax]
    values = _process.decode(codec, src, runner.rows * runner.columns)
    if values.shape[:2] != (runner.rows, runner.columns):
        raise ValueError("the size of a frame differs from the header's")
    runner.set_option("bits_allocated", 8 * values.dtype.itemsize)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    made_rgb = codec in _JPEG_2000 and runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT")
    if made_rgb or (runner.transfer_syntax == _EXTENDED and values.ndim == 3):
        runner.set_option("photometric_interpretation", "RGB")
    return values.tobytes()


class _Process:
    """The child process; it starts on first use, and again after it has ended."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, codec: str, frame: bytes, pixels: int) -> Values:
        """Return the values of a frame.

        Raises:
            ValueError: the frame cannot be decoded, or the process ended while decoding it.
        """
        with self._lock:
            source, target = self._pipes()
            try:
                source.write(json.dumps([codec, len(frame), pixels]).encode() + b"\n")
                source.write(frame)
                source.flush()
                head = json.loads(target.readline())
                body = bytearray(target.read(head["bytes"]))
            except (OSError, ValueError):
                self.close()
                raise ValueError("the decoder process ended while decoding it") from None
        if "error" in head:
            raise ValueError(head["error"])
        return np.frombuffer(body, head["dtype"]).reshape(head["shape"])

    def close(self) -> None:
        """End the process."""
        running, self._running = self._running, None
        if running is not None and self._owner == os.getpid():
            running.kill()
            running.communicate()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._running is None or self._owner != os.getpid():  # a forked copy does not own its parent's child
            # -P: do not import modules from the folder of the program.
            command = [sys.executable, "-P", str(Path(__file__).with_name("dicom_child.py"))]
            pipe = subprocess.PIPE
            self._running = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
            self._owner = os.getpid()
        source, target = self._running.stdin, self._running.stdout
        if source is None or target is None:
            raise ValueError("the decoder has no pipes")
        return source, target


_lock = Lock()
_registered: set[str] = set()
_process = _Process()
atexit.register(_process.close)
