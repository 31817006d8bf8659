"""The figures of this library as `evaluate` modules: `evaluate.load(metric_folder("auroc"))`."""

from __future__ import annotations

from pathlib import Path

from hf_ptr.errors import InputError, nearest

METRICS = ("action_mse", "auroc", "effective_sample_size", "identification_accuracy", "success_rate")


def metric_folder(name: str) -> str:
    """
    The folder of a metric, for `evaluate.load`.

    Raises:
        InputError: for a name that is none of `METRICS`.
    """
    if name not in METRICS:
        raise InputError(f"no metric {name!r}.{nearest(name, METRICS)} There are: {', '.join(METRICS)}")
    return str(Path(__file__).parent / name)
