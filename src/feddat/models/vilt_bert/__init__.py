"""ViLT with a BERT in front of it."""
