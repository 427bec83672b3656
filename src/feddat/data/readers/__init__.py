"""Readers of a client's own data: one file per format, one record-to-example function for all of them."""

from feddat.data.readers.own import read_client

__all__ = ["read_client"]
