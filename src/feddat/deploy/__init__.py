"""Runs across several machines: keys and certificates, and the processes on each machine."""
