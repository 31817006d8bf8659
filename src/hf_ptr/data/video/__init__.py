"""Frames of videos and stored images."""
