"""Fixtures of the report: a table of ten episodes, and a dataset with a video."""

from report_helpers import table
from video_helpers import dataset

__all__ = ["dataset", "table"]
