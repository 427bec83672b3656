"""Frozen foundation models behind one interface."""
