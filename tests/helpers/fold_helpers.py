"""Interrupted fits of the label-free score."""

from __future__ import annotations

from typing import Any

import pytest

from hf_ptr.scoring import cross_fitting


def stopped_at(fold: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Interrupts the fit once, when the heads of that fold (counted from 1) begin; the list grows with each fold."""
    begun: list[int] = []
    train = cross_fitting.train_heads

    def stopped(*args: Any) -> Any:
        begun.append(1)
        if len(begun) == fold:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(cross_fitting, "train_heads", stopped)
    return begun
