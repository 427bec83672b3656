"""Decoder vision-language models, which generate their answers."""
