"""Adapters: what is inserted into the frozen backbone, what of it trains and what of it travels."""
