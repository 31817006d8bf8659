"""Running the command line in tests."""

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
    """Run the command line in this process, or in a new one if `before`, Python code to run first, is given.

    Sharing this process saves importing the library for every call, which would dominate the tests' time.
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
    """The one-line error message of a command with invalid input."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("hf-ptr: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]
