"""ViLT with a BERT in front."""
