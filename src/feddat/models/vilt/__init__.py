"""ViLT: one transformer over words and image patches together."""
