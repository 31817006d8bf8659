"""Area under the ROC curve of a score that distinguishes good samples from bad ones."""

import datasets
import evaluate
import numpy as np

from hf_ptr.metrics.statistics import auroc

CITATION = "Mann and Whitney, On a test of whether one of two random variables is stochastically larger, 1947"
DESCRIPTION = "Probability that a good sample scores above a bad one, with ties counted as 1/2."
INPUTS = """
Args:
    predictions: the scores; higher is better.
    references: 1 for good samples, 0 for bad samples.
Returns:
    auroc: area under the ROC curve in [0, 1]; None if all samples have the same label.
"""


class Auroc(evaluate.Metric):
    """See `DESCRIPTION`."""

    def _info(self):
        features = {"predictions": datasets.Value("float32"), "references": datasets.Value("int32")}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references):
        score, good = np.asarray(predictions), np.asarray(references) > 0
        return {"auroc": auroc(score[good], score[~good])}
