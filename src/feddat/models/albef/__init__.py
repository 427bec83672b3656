"""ALBEF: an image encoder, a text encoder that fuses words with the image, and a decoder that generates answers."""
