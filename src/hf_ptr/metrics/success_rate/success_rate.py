"""Success rate of episodes with its confidence interval."""

import datasets
import evaluate

from hf_ptr.metrics import success

CITATION = "Wilson, Probable inference, the law of succession, and statistical inference, 1927"
DESCRIPTION = "Success rate of independent episodes with its 95 % Wilson score interval."
INPUTS = """
Args:
    predictions: whether each episode solved its task.
Returns:
    success: success rate in [0, 1].
    interval: lower and upper bound.
    successes, episodes: counts.
"""


class SuccessRate(evaluate.Metric):
    """See `DESCRIPTION`."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("bool")}),
        )

    def _compute(self, predictions):
        return success.SuccessRate(int(sum(predictions)), len(predictions)).to_dict()
