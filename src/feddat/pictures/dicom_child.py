"""The child program that decodes compressed frames for :mod:`feddat.pictures.dicom_codecs`.

For each frame it reads a line of JSON, ``[codec, bytes, pixels]``, and that many bytes. It answers with a line of JSON,
``{"shape", "dtype", "bytes"}`` or ``{"error", "bytes"}``, and that many bytes. Before each frame it limits its own
resources: the operating system ends it if it uses more CPU time or memory than a frame of that many pixels can need.
"""

import json
import os
import resource
import sys

import imagecodecs
import numpy as np

#: Seconds of CPU time allowed for any frame, and number of pixels that allow one more second.
SECONDS, PIXELS_PER_SECOND = 5, 500_000
#: Bytes of memory allowed for any frame, and additional bytes per pixel.
BYTES, BYTES_PER_PIXEL = 512 << 20, 64


def decode(codec: str, frame: bytes) -> np.ndarray:
    """Return a frame's values, (H, W) or (H, W, channels): RGB for lossy coding, the coded values for lossless."""
    return {
        "jpeg": imagecodecs.jpeg8_decode,
        "jpegls": imagecodecs.jpegls_decode,
        "jpeg2k": imagecodecs.jpeg2k_decode,
        "htj2k": imagecodecs.htj2k_decode,
    }[codec](frame)


def bound(pixels: int) -> None:
    """Limit this process, from now on, to the CPU time and memory that a frame of ``pixels`` pixels may use."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + SECONDS + pixels // PIXELS_PER_SECOND
    for limit, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_DATA, BYTES + BYTES_PER_PIXEL * pixels)):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


def main() -> None:
    """Decode frames from standard input until it ends."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print to standard output
    while line := source.readline():
        codec, size, pixels = json.loads(line)
        frame = source.read(size)
        bound(pixels)
        try:
            values = np.ascontiguousarray(decode(codec, frame))
            head, body = {"shape": values.shape, "dtype": values.dtype.str}, values.data.cast("B")
        except Exception as error:  # the libraries raise many kinds of errors
            head, body = {"error": type(error).__name__}, memoryview(b"")
        target.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n")
        target.write(body)
        target.flush()


if __name__ == "__main__":
    main()
