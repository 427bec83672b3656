"""Head, loss and metric per task."""
