"""Fixtures of the reader, of videos in particular."""

from video_helpers import dataset

__all__ = ["dataset"]
