"""One run: what it loads, what it does, and the folder that it leaves."""
