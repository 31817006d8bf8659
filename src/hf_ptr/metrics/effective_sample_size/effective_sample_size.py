"""Effective sample size of weights."""

import datasets
import evaluate
import numpy as np
import torch

from hf_ptr.functional import effective_sample_size

CITATION = "Kish, Survey Sampling, 1965"
DESCRIPTION = "Effective sample size (Σw)²/Σw² of weights, and its ratio to n."
INPUTS = """
Args:
    predictions: non-negative weights.
Returns:
    effective_sample_size: between 1 and n.
    share: effective sample size divided by n, which the trainer logs as `ess`.
"""


class EffectiveSampleSize(evaluate.Metric):
    """See `DESCRIPTION`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("float32")}),
        )

    def _compute(self, predictions):
        size = float(effective_sample_size(torch.as_tensor(np.asarray(predictions, dtype=np.float64))))
        return {"effective_sample_size": size, "share": size / len(predictions)}
