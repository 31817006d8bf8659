"""Fixtures for tests of videos."""

from video_helpers import dataset

__all__ = ["dataset"]
