"""Shared by the tests: command line."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from hf_ptr.cli import main

ROOT = Path(__file__).resolve().parents[2]


def hf_ptr(*arguments: object, before: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command line; in a process of its own where `before`, Python that runs first, is given.

    The others share this process: importing the library anew for each would take most of the tests' time.
    """
    if before is None:
        stdout, stderr = io.StringIO(), io.StringIO()
        with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(
            arguments, int(stopped.value.code or 0), stdout.getvalue(), stderr.getvalue()
        )
    script = f"{before}\nfrom hf_ptr.cli import main\nmain({[str(argument) for argument in arguments]!r})"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, cwd=ROOT)


def the_line(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a mistake is answered with."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("hf-ptr: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]
