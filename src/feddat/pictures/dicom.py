"""Read one frame of a DICOM file as a viewer shows it. DICOM is the format of hospitals.

It needs ``pip install 'feddat[dicom]'``. The header of a file names a patient. Only the elements that determine the
pixels are read, and only pixels leave this module. The errors, warnings and log lines of pydicom quote the values of
elements, so they are suppressed.
"""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import numpy as np

from feddat.picture_settings import PictureSettings
from feddat.pictures import dicom_values
from feddat.pictures.colour import from_profile
from feddat.pictures.dicom_codecs import CODECS, PLUGIN, register
from feddat.pictures.grey import grey_pixels, scaled
from feddat.pictures.jpeg import read_header as read_jpeg_header
from feddat.pictures.notes import Note, Notes
from feddat.pictures.pixels import Pixels, UnreadableError, Values, check_size

T = TypeVar("T")

INSTALL = "pip install 'feddat[dicom]'"
#: Elements that are read: those of the image pixel module (PS3.3 C.7.6.3) and those of :mod:`dicom_values`.
_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ICCProfile",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *dicom_values.TAGS,
)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", _DEFLATED)
#: Transfer syntax of compressed frames -> pydicom's name of its decoder.
_DECODERS = {"1.2.840.10008.1.2.4.50": "pillow", "1.2.840.10008.1.2.5": "pydicom"} | dict.fromkeys(CODECS, PLUGIN)
#: Maximum size of a file, compressed or inflated, in bytes per allowed pixel of a frame.
_BYTES_PER_PIXEL = 8
#: Maximum number of JPEG 2000 tiles. The standard allows 65535, but each one costs time.
_MOST_TILES = 4096


def read(file: BinaryIO, settings: PictureSettings, notes: Notes) -> Pixels:
    """Return one frame of a DICOM file in RGB, windowed as the file declares.

    Raises:
        UnreadableError: pydicom or a decoder is not installed, or the file holds no picture, is damaged, too large or
            of an unsupported kind. The message quotes nothing from the header.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise UnreadableError(f"DICOM needs pydicom: {INSTALL}") from None
    _silence()
    _check_deflated(file, settings)
    header = _guarded(lambda: _read_header(file), "its header cannot be read")
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    if not rows or not columns:
        raise UnreadableError("this DICOM file holds no picture")
    check_size(columns, rows, settings.max_pixels)
    photometric = _text(header, "PhotometricInterpretation", (*_GREY, *_COLOURS, "PALETTE COLOR"))
    index = _frame_index(_whole(header, "NumberOfFrames") or 1, settings, notes)
    values = _decoded(file, header, index, settings, notes)
    if photometric in _GREY:
        if values.ndim != 2:
            raise UnreadableError("cannot be decoded (DICOM: grey picture with several channels)")
        made = _guarded(lambda: dicom_values.to_8_bits(values, header, index, settings, notes), "its greys are damaged")
        return grey_pixels(made)
    if photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        values = _guarded(lambda: apply_color_lut(values, header), "its palette cannot be used")
        stored = 16 if values.dtype.itemsize == 2 and int(values.max(initial=0)) > 255 else 8
    else:
        stored = _whole(header, "BitsStored") or 8
    pixels = _8_bit_colours(values, stored)
    profile = _guarded(lambda: header.get("ICCProfile"), "its header cannot be read")
    return from_profile(pixels, profile, 3, notes) if isinstance(profile, bytes) else pixels


def _silence() -> None:
    """Suppress the log lines and warnings of pydicom and its decoders, whichever way logging is set up."""
    for name in ("pydicom", "pylibjpeg", "openjpeg"):  # pydicom loads the others if they are installed
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    if not any(getattr(module, "pattern", "") == "pydicom" for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module="pydicom")


def _guarded(call: Callable[[], T], what: str) -> T:
    """Return the result of a call to pydicom; report only the type of its errors, because they can quote the header."""
    try:
        return call()
    except UnreadableError:
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds of errors for damaged files
        raise UnreadableError(f"cannot be decoded (DICOM: {what}, {type(error).__name__})") from None


def _read_header(file: BinaryIO) -> Any:
    from pydicom import dcmread

    file.seek(0)
    return dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))


def _check_deflated(file: BinaryIO, settings: PictureSettings) -> None:
    """Raise if a file with deflated elements would exceed the memory limit when inflated. pydicom has no such limit."""
    file.seek(0)
    head = file.read(4096)
    if _DEFLATED.encode() not in head:
        return
    if head[132:140] != b"\x02\0\0\0UL\x04\0":
        raise UnreadableError("cannot be decoded (DICOM: deflated, without the length of its first group)")
    file.seek(144 + int.from_bytes(head[140:144], "little"))
    left, inflating = _most(settings), zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while not inflating.eof:
            data = inflating.unconsumed_tail or file.read(1 << 16)
            if not data:
                return
            left -= len(inflating.decompress(data, 1 << 20))
            if left < 0:
                raise UnreadableError(f"has more than {_most(settings)} bytes when inflated; see pictures.max_pixels")
    except zlib.error:
        raise UnreadableError("cannot be decoded (DICOM: not deflated, although its header says so)") from None


def _decoded(file: BinaryIO, header: Any, index: int, settings: PictureSettings, notes: Notes) -> Values:
    """Return the stored values of a frame, (H, W) or (H, W, 3), with YCbCr converted to RGB."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    high, stored = _whole(header, "HighBit"), _whole(header, "BitsStored")
    if high is not None and stored is not None and high != stored - 1:
        raise UnreadableError("cannot be decoded (DICOM: the stored bits are not the lowest bits)")
    syntax = _guarded(lambda: _syntax(header), "its header cannot be read")
    what = "its pixels cannot be read"
    if syntax in _NATIVE and syntax != _DEFLATED:
        file.seek(0)
        try:  # this reads only one frame of a large file
            return _guarded(lambda: pixel_array(file, index=index, transfer_syntax_uid=syntax), what)
        except UnreadableError:
            if not settings.truncated:
                raise
    size = file.seek(0, 2)
    if size > _most(settings):
        raise UnreadableError(f"{size} bytes of compressed DICOM are more than pictures.max_pixels allows")
    file.seek(0)
    whole = _guarded(lambda: dcmread(file, force=True, specific_tags=[*_TAGS, *_PIXELS]), what)
    whole.file_meta.TransferSyntaxUID = syntax
    if syntax in _NATIVE:
        if settings.truncated:
            _guarded(lambda: _fill(whole, settings, notes), what)
        return _guarded(lambda: pixel_array(whole, index=index), what)
    plugin = _decoder(syntax)
    _guarded(lambda: _check_frame(whole, index, settings), what)
    return _guarded(lambda: pixel_array(whole, index=index, decoding_plugin=plugin), f"{what}, {_name(syntax)}")


def _syntax(header: Any) -> Any:
    """Return the transfer syntax of a file's pixels."""
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    told = header.file_meta.get("TransferSyntaxUID")
    if told is not None:
        return UID(str(told))
    implicit, little = header.original_encoding  # an old file without file meta information
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _decoder(syntax: Any) -> str:
    """Return pydicom's name of the decoder for a transfer syntax.

    Raises:
        UnreadableError: no decoder supports the transfer syntax, or it is not installed.
    """
    from pydicom.pixels import get_decoder

    plugin = _DECODERS.get(syntax)
    if plugin is None:
        raise UnreadableError(f"DICOM compressed as {_name(syntax)} is not read; decompress it first")
    register()
    if plugin not in get_decoder(syntax).available_plugins:
        raise UnreadableError(f"DICOM compressed as {_name(syntax)} needs a decoder: {INSTALL}")
    return plugin


def _name(syntax: Any) -> str:
    """Return the standard's name of a transfer syntax; an unknown one is not quoted."""
    return str(syntax.name) if syntax.is_transfer_syntax else "an unknown transfer syntax"


def _fill(whole: Any, settings: PictureSettings, notes: Notes) -> None:
    """Fill in zeros for the missing pixels of a truncated file."""
    from pydicom.pixels.utils import get_expected_length

    missing = get_expected_length(whole) - len(whole.PixelData)
    if missing > _most(settings):
        raise UnreadableError("cannot be decoded (DICOM: almost all of its pixels are missing)")
    if missing > 0:
        whole.PixelData += bytes(missing)
        notes.add(Note.INCOMPLETE)


def _check_frame(whole: Any, index: int, settings: PictureSettings) -> None:
    """Check the size of a compressed frame, because decoders believe the frame and not the file's header."""
    from pydicom.encaps import get_frame

    offsets = None
    if whole.get("ExtendedOffsetTable") and whole.get("ExtendedOffsetTableLengths"):
        offsets = (whole.ExtendedOffsetTable, whole.ExtendedOffsetTableLengths)
    frames = _whole(whole, "NumberOfFrames") or 1
    frame = get_frame(whole.PixelData, index, number_of_frames=frames, extended_offsets=offsets)
    size = _coded_size(frame)
    if size is not None:
        check_size(*size, settings.max_pixels)


def _coded_size(frame: bytes) -> tuple[int, int] | None:
    """Return the width and height that a compressed frame declares; ``None`` if it declares none (RLE)."""
    if frame.startswith(b"\xff\x4f\xff\x51"):  # JPEG 2000: a canvas divided into tiles
        width, height, *_, tile_width, tile_height = (int.from_bytes(frame[at : at + 4]) for at in (8, 12, 24, 28))
        if not tile_width or not tile_height or (width // tile_width + 1) * (height // tile_height + 1) > _MOST_TILES:
            raise UnreadableError("cannot be decoded (DICOM: JPEG 2000 with too many tiles)")
        return width, height
    if frame.startswith(b"\xff\xd8"):
        header = read_jpeg_header(frame)
        return None if header is None else (header.width, header.height)
    return None


def _frame_index(frames: int, settings: PictureSettings, notes: Notes) -> int:
    if frames <= 1:
        return 0
    index = frames // 2 if settings.frame == "middle" else settings.frame - 1
    if index >= frames:
        raise UnreadableError(f"the file holds {frames} frames, but pictures.frame is {settings.frame}")
    notes.add(Note.FRAMES)
    return index


def _8_bit_colours(values: Values, stored: int) -> Pixels:
    """Return colours (H, W, 3 or more) with ``stored`` bits as uint8 (H, W, 3)."""
    if values.ndim != 3 or values.shape[2] < 3:
        raise UnreadableError("cannot be decoded (DICOM: colour picture with fewer than three channels)")
    values = values[..., :3]
    if stored == 8:
        return np.ascontiguousarray(values.clip(0, 255).astype(np.uint8))
    return np.stack([scaled(values[..., channel], 0, (1 << stored) - 1) for channel in range(3)], axis=2)


def _most(settings: PictureSettings) -> int:
    return _BYTES_PER_PIXEL * settings.max_pixels + (1 << 24)


def _whole(header: Any, name: str) -> int | None:
    """Return an element as a non-negative integer; ``None`` if it is not one."""
    try:
        value = int(header.get(name))
    except Exception:  # pydicom decodes elements on access
        return None
    return value if value >= 0 else None


def _text(header: Any, name: str, known: tuple[str, ...]) -> str:
    """Return an element that must be one of a few known words; the error does not quote any other value."""
    value = _guarded(lambda: str(header.get(name, "")).strip().upper(), "its header cannot be read")
    if value not in known:
        raise UnreadableError(f"DICOM with a photometric interpretation other than {', '.join(known)} is not read")
    return value
