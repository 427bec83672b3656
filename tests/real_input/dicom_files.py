"""Small DICOM files, made here. The texts of their headers are one secret word, which must not appear elsewhere."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

#: The value of the header's texts.
SECRET = "ZEPHYRINE"
_TEXTS = (
    "PatientName", "PatientID", "PatientAddress", "OtherPatientNames", "ReferringPhysicianName", "OperatorsName",
    "InstitutionName", "StudyDescription", "SeriesDescription", "ImageComments", "PatientComments", "AccessionNumber",
    "DerivationDescription", "ProtocolName", "StudyID", "StationName", "RequestedProcedureDescription",
)  # fmt: skip
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def dataset(
    values: np.ndarray, photometric: str = "MONOCHROME2", stored: int | None = None, **elements: Any
) -> Dataset:
    """Return a picture with a header.

    Args:
        values: (H, W) or (H, W, 3); with ``NumberOfFrames`` among the elements, the first axis holds the frames.
        photometric: the photometric interpretation of the values.
        stored: number of bits in use; default: all.
        elements: more header elements, by keyword.
    """
    made = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    made.file_meta.SourceApplicationEntityTitle = SECRET
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    for name in _TEXTS:
        setattr(made, name, SECRET)
    made.PatientBirthDate = made.StudyDate = "19700102"
    private = made.private_block(0x0011, SECRET, create=True)
    private.add_new(1, "LO", SECRET)
    item = Dataset()
    item.CodeMeaning = SECRET
    made.AdmittingDiagnosesCodeSequence = [item]
    shape = values.shape[1:] if "NumberOfFrames" in elements else values.shape
    made.Rows, made.Columns = shape[:2]
    made.SamplesPerPixel = 3 if len(shape) == 3 else 1
    if len(shape) == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = photometric
    made.BitsAllocated = 8 * values.dtype.itemsize
    made.BitsStored = stored or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in elements.items():
        setattr(made, name, value)
    made.PixelData = values.tobytes()
    made["PixelData"].VR = "OB" if made.BitsAllocated == 8 else "OW"
    return made


def written(made: Dataset, syntax: str | None = None, bare: bool = False) -> bytes:
    """Return a dataset as a file's bytes.

    Args:
        made: the dataset; its pixels are not compressed, or compressed in its own transfer syntax.
        syntax: transfer syntax to write or compress it in.
        bare: whether to leave out preamble and file meta information, as in files from before these existed.
    """
    if syntax in NATIVE:
        made.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian and made.BitsAllocated > 8:
            made.PixelData = np.frombuffer(made.PixelData, f"u{made.BitsAllocated // 8}").byteswap().tobytes()
    elif syntax in BY_IMAGECODECS:
        values = np.frombuffer(made.PixelData, f"u{made.BitsAllocated // 8}")
        values = values.reshape(made.Rows, made.Columns, *[3][: made.SamplesPerPixel - 1])
        return of_frames([BY_IMAGECODECS[syntax](values)], made, syntax)
    elif syntax is not None:
        made.compress(syntax, **({"jls_error": 2} if syntax == JPEGLSNearLossless else {}))
    out = BytesIO()
    if bare:
        implicit, little = (
            made.file_meta.TransferSyntaxUID.is_implicit_VR,
            made.file_meta.TransferSyntaxUID.is_little_endian,
        )
        del made.file_meta
        pydicom.dcmwrite(out, made, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        return out.getvalue().removeprefix(bytes(128) + b"DICM")
    pydicom.dcmwrite(out, made, enforce_file_format=True)
    return out.getvalue()


def of_frames(frames: list[bytes], like: Dataset, syntax: str) -> bytes:
    """Return a file with these compressed frames as its picture."""
    like.file_meta.TransferSyntaxUID = syntax
    like.PixelData = encapsulate(frames)
    like["PixelData"].VR = "OB"
    return written(like)


def _jpeg_without_loss(values: np.ndarray, predictor: int = 1) -> bytes:
    bits = 8 if values.dtype == np.uint8 else 16
    return imagecodecs.jpeg8_encode(
        values,
        lossless=True,
        predictor=predictor,
        bitspersample=bits,
        colorspace="RGB" if values.ndim == 3 else None,
        outcolorspace="RGB" if values.ndim == 3 else None,
    )


#: Transfer syntax that pydicom cannot write -> encoder.
BY_IMAGECODECS = {
    JPEGLosslessSV1: _jpeg_without_loss,
    JPEGLossless: lambda values: _jpeg_without_loss(values, 4),
    HTJ2KLossless: imagecodecs.htj2k_encode,
}
LOSSLESS = (*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless, *BY_IMAGECODECS)
