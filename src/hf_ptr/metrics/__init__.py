"""Statistics of policies and scores, also as `evaluate` modules: `evaluate.load(metric_folder("auroc"))`."""

from __future__ import annotations

from pathlib import Path

from hf_ptr.errors import InputError, nearest

METRICS = ("action_mse", "auroc", "effective_sample_size", "identification_accuracy", "success_rate")


def metric_folder(name: str) -> str:
    """
    Folder of an `evaluate` module, for `evaluate.load`.

    Raises:
        InputError: `name` is not in `METRICS`; the message suggests the nearest name.
    """
    if name not in METRICS:
        raise InputError(f"no metric {name!r}.{nearest(name, METRICS)} Available: {', '.join(METRICS)}")
    return str(Path(__file__).parent / name)
