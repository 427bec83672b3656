"""Adapters: what is inserted into the frozen backbone, what of it trains and what of it travels."""

import peft  # noqa: F401  (first, so that this package's tuners register before anything else here is half loaded)
