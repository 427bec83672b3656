"""CLIP and SigLIP: a tower for texts and one for images."""
