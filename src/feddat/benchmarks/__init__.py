"""Named federations: which clients, which data, which task."""
