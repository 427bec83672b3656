"""Adapters: modules inserted into the frozen backbone, with the parts that train and the parts that travel."""

from importlib import import_module

from feddat.offline import offline

with offline():  # before any other module here: PEFT imports bitsandbytes if that is installed
    import_module("peft")
