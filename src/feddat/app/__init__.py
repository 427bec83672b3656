"""The Flower apps and everything that knows what a message holds."""
