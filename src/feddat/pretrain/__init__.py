"""Pretraining of the bundled foundation model on captions of the plain mini world."""
