"""Decoder vision-language models: they write their answers."""
