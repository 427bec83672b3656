"""ViLT as a frozen backbone."""

from feddat.models.fast_vilt import make_fast

__all__ = ["make_fast"]
