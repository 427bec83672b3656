"""CLIP and SigLIP: one tower for texts and one for images."""
