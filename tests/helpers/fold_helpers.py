"""Fits of calibrated scores that are stopped on the way."""

from __future__ import annotations

from typing import Any

import pytest

from hf_ptr.scoring import cross_fitting as crossfitting


def stopped_at(fold: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C, once, as that fold's heads begin, counted from 1; grows by one with each that is begun."""
    begun: list[int] = []
    train = crossfitting.train_heads

    def stopped(*args: Any) -> Any:
        begun.append(1)
        if len(begun) == fold:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(crossfitting, "train_heads", stopped)
    return begun
