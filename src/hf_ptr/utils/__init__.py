"""Helpers that know nothing of robots or models: files, progress, lazy modules."""
