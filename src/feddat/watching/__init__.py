"""Watching runs: live progress in a terminal, the state of runs from their folders, and the dashboard."""
