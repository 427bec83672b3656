"""Local objectives, one file each."""
