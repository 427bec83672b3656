"""ViLT: one transformer that reads words and image patches together."""
