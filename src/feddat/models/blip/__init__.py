"""BLIP for visual question answering: it writes its answers."""
