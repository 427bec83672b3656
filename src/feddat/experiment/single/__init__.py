"""A single run: loading, training, evaluation, and the run folder."""
