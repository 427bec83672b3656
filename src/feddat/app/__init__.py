"""The Flower apps, and all code that knows the contents of messages."""
