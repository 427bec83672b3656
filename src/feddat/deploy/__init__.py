"""Runs over several machines: keys and certificates, the processes on each, and what a run over them needs."""
