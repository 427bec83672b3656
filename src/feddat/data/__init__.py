"""Data: published formats, own data, and the offline mini suite."""
