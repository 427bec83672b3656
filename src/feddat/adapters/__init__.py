"""Adapters: what is inserted into the frozen backbone, what of it trains and what of it travels."""

from importlib import import_module

from feddat.offline import offline

with offline():  # before any other module here: it imports bitsandbytes, where that is installed
    import_module("peft")
