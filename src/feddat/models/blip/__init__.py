"""BLIP for visual question answering, which generates its answers."""
