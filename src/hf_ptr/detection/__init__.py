"""Finds faults in robot demonstrations: which recordings, where, and why."""
