"""The two apps that Flower loads, the settings that reach them, and the client's policy for incoming messages."""
