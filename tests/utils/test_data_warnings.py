"""Warnings about data: one line each on stderr, each text once, in worker processes too."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from hf_ptr.errors import DataWarning
from hf_ptr.utils.data_warnings import PRINTED, data_warnings_printed

PROGRAM = """
import sys, warnings
from hf_ptr.errors import DataWarning
from hf_ptr.utils.data_warnings import data_warnings_printed
from hf_ptr.utils.process_pool import map_in_order

def work(text):
    warnings.warn(text, DataWarning)

if __name__ == "__main__":
    sys.argv[0] = "hf-ptr"
    with data_warnings_printed():
        work("the clock drifts")
        list(map_in_order(work, ["the clock drifts", "no frame_index", "no frame_index", "the clock drifts"], 2))
"""


def test_each_text_is_printed_once_over_all_processes(tmp_path: object) -> None:
    script = os.path.join(str(tmp_path), "program.py")
    with open(script, "w") as file:
        file.write(PROGRAM)
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stderr.splitlines()) == ["warning: no frame_index", "warning: the clock drifts"]


def test_a_warning_of_several_lines_becomes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with data_warnings_printed():
        warnings.warn("two\n  lines", DataWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: two lines\n"


def test_other_warnings_keep_their_form_and_nothing_stays_behind() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with data_warnings_printed():
            warnings.warn("of somebody else", UserWarning, stacklevel=1)
        warnings.warn("of the data", DataWarning, stacklevel=1)
    assert [str(each.message) for each in seen] == ["of somebody else", "of the data"]
    assert PRINTED not in os.environ
