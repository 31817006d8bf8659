"""
Read thousands of drawn datasets and count what a sound reader would not do: wrong content, refusals without a reason,
silence about damage, other exceptions than `InputError`.

    python -m benchmarks.reader_fuzz --datasets 2000 --seed 0     # rerun to resume
    python -m benchmarks.reader_fuzz --only 17                    # one dataset, reduced to the cause
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.measurement import RESULTS as FOLDER
from benchmarks.measurement import machine, run
from benchmarks.reader_fuzz.checking import check, message_kind, minimised
from benchmarks.reader_fuzz.spec import DatasetSpec, draw_spec

RESULTS = FOLDER / "reader_fuzz.json"
