"""Finds faults in robot demonstrations: which recordings, where, and why."""

from hf_ptr.detection.check import Candidates, Check, Context, Found, Plant, View
from hf_ptr.detection.detect import Detection, detect
from hf_ptr.detection.findings import Finding

__all__ = ["Candidates", "Check", "Context", "Detection", "Finding", "Found", "Plant", "View", "detect"]
