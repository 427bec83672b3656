"""How fast it is, against what: measurements that anyone can repeat (``feddat bench``).

A time means something beside another one taken on the same machine at the same time. So every measurement runs what it
compares in turns (A B C A B C ...), in one process, and reports medians, spreads and ratios.
"""
