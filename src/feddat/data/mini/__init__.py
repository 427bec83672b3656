"""The mini suite: a procedural world of emoji on coloured tiles."""
