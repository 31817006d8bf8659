"""Memory of this process, from Linux. What `getrusage` accounts includes memory of the process that started it."""

from __future__ import annotations

from pathlib import Path


def peak() -> int:
    """The largest memory so far, or since [`reset_peak`][], bytes."""
    return _status("VmHWM")


def resident() -> int:
    """The present memory, bytes."""
    return _status("VmRSS")


def reset_peak() -> None:
    """Sets the peak to the present memory."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
