"""Frozen foundation models behind one interface."""

from feddat.models.base import Backbone, EncodedViews, ModelError
from feddat.models.catalog import list_models, load_backbone

__all__ = ["Backbone", "EncodedViews", "ModelError", "list_models", "load_backbone"]
