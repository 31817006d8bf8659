"""Mean squared error between actions and recorded actions."""

import datasets
import evaluate
import numpy as np

from hf_ptr.metrics.statistics import action_mse

CITATION = "PTR, https://arxiv.org/abs/2603.16542"
DESCRIPTION = "Mean squared error of actions over steps and dimensions, in squared action units."
INPUTS = """
Args:
    predictions, references: actions and recorded actions, one row per valid step.
Returns:
    action_mse: mean squared error, at least 0.
"""


class ActionMse(evaluate.Metric):
    """See `DESCRIPTION`."""

    def _info(self):
        vector = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": vector, "references": vector}),
        )

    def _compute(self, predictions, references):
        return {"action_mse": action_mse(np.asarray(predictions), np.asarray(references))}
