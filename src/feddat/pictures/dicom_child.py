"""The program that decodes compressed frames for :mod:`feddat.pictures.dicom_codecs`, a process of its own.

What it reads, one after the other: a line of JSON, ``[codec, bytes, pixels]``, and that many bytes. What it answers: a
line of JSON, ``{"shape", "dtype", "bytes"}`` or ``{"error"}``, and that many bytes. Before each it bounds itself: the
system ends it when it takes more processor time or memory than a frame of so many pixels can take.
"""

import json
import os
import resource
import sys

import imagecodecs
import numpy as np

#: Seconds of processor time that any frame may take, and pixels for which it may take one more.
SECONDS, PIXELS_PER_SECOND = 5, 500_000
#: Bytes of memory that any frame may take, and more for each pixel.
BYTES, BYTES_PER_PIXEL = 512 << 20, 64


def decode(codec: str, frame: bytes) -> np.ndarray:
    """Return a frame's values, (H, W) or (H, W, channels): RGB, or without loss what was coded."""
    return {
        "jpeg": imagecodecs.jpeg8_decode,
        "jpegls": imagecodecs.jpegls_decode,
        "jpeg2k": imagecodecs.jpeg2k_decode,
        "htj2k": imagecodecs.htj2k_decode,
    }[codec](frame)


def bound(pixels: int) -> None:
    """Let this process take what a frame of so many pixels may, from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + SECONDS + pixels // PIXELS_PER_SECOND
    for limit, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_DATA, BYTES + BYTES_PER_PIXEL * pixels)):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


def main() -> None:
    """Decode what comes in until nothing does any more."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print
    while line := source.readline():
        codec, size, pixels = json.loads(line)
        frame = source.read(size)
        bound(pixels)
        try:
            values = np.ascontiguousarray(decode(codec, frame))
            head, body = {"shape": values.shape, "dtype": values.dtype.str}, values.data.cast("B")
        except Exception as error:  # of any kind, from many libraries
            head, body = {"error": type(error).__name__}, memoryview(b"")
        target.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n")
        target.write(body)
        target.flush()


if __name__ == "__main__":
    main()
