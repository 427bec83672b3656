"""What Flower loads: the two apps, the settings that reach them, and the client's policy over what it is asked."""
