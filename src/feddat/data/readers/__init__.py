"""Readers of own data and of published datasets: one file per format, one record-to-example function for all."""

from feddat.data.readers.own import known_formats, read_client

__all__ = ["known_formats", "read_client"]
