"""Frozen foundation models behind one interface.

Every family has a folder with the same two files: ``encoder.py`` (pictures and texts to tensors, without the weights)
and ``backbone.py`` (the frozen model). To add a family, copy such a folder and register it in ``catalog.py``.
"""

from feddat.models.base import Backbone, EncodedViews, ModelError
from feddat.models.catalog import list_models, load_backbone

__all__ = ["Backbone", "EncodedViews", "ModelError", "list_models", "load_backbone"]
