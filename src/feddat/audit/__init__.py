"""Attacks on a run by a curious server or client, which follows the protocol and looks at everything.

The attacks use the run's own data, so that the right answers are known, and report how far an attacker gets.
"""
