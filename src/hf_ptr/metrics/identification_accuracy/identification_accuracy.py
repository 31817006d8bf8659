"""Accuracy of identifying the next observation among candidates."""

import datasets
import evaluate
import numpy as np
import torch

from hf_ptr.metrics.statistics import identified

CITATION = "PTR, https://arxiv.org/abs/2603.16542, Eq. (12)"
DESCRIPTION = "Fraction of samples whose matched candidate has the highest identification logit."
INPUTS = """
Args:
    predictions: logits of each sample, equally many per sample.
    references: index of the match.
Returns:
    identification_accuracy: accuracy in [0, 1].
    chance: accuracy of random guessing.
"""


class IdentificationAccuracy(evaluate.Metric):
    """See `DESCRIPTION`."""

    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int32")}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references):
        logits, match = torch.as_tensor(np.asarray(predictions)), torch.as_tensor(np.asarray(references)).long()
        first = torch.arange(logits.shape[1]).repeat(len(logits), 1)
        # Swap the match with the candidate in column 0.
        first.scatter_(1, match[:, None], 0)
        first[:, 0] = match
        accuracy = identified(logits.gather(1, first)).float().mean()
        return {"identification_accuracy": float(accuracy), "chance": 1.0 / logits.shape[1]}
