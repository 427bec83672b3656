"""Speed and memory measurements that anyone can repeat (``feddat bench``).

A time means something only beside another one taken on the same machine at the same time. So every measurement runs
the compared variants in turns (A B C A B C ...) in one process, and reports medians, spreads and ratios.
"""
