"""Attacks on a run, by a server that follows the protocol and looks at everything, and by a client that does the same.

They play with the run's own data, so that it is known who was trained on, and say how far an attacker gets.
"""
