"""Finds faults in robot demonstrations: which recordings, where, and why."""

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.detect import Detection, detect
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.signals import Episode

__all__ = [
    "Candidates",
    "Check",
    "Context",
    "Detection",
    "Episode",
    "Finding",
    "Found",
    "Measurement",
    "Plant",
    "View",
    "detect",
]
