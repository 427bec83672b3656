"""Pretraining of the bundled foundation models on captions and questions of the plain mini world."""
