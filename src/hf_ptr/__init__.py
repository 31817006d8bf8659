"""hf-ptr: label-free scores of robot demonstrations, and post-training of policies on uneven ones (PTR)."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

from hf_ptr._version import __version__
from hf_ptr.errors import InputError
from hf_ptr.utils.data_warnings import print_in_workers
from hf_ptr.utils.lazy_modules import lazy_attributes

if TYPE_CHECKING:
    from hf_ptr.data import ChunkDataset, EpisodeTable, WeightedChunkSampler
    from hf_ptr.data.score_file import read_scores, read_weights, weight_lookup, write_scores
    from hf_ptr.detection.detect import Detection, detect
    from hf_ptr.detection.findings import Finding
    from hf_ptr.detection.findings_file import read_findings
    from hf_ptr.embodiment import UnifiedActionSpace
    from hf_ptr.hub.datasets import load_dataset
    from hf_ptr.policies import VLAPolicy, VLAPolicyConfig, VLAProcessor, load_policy, policy_from_dataset
    from hf_ptr.ptr import (
        AdaptiveScaleController,
        BeliefTokenizer,
        BeliefTokenizerConfig,
        CandidatePool,
        TargetEncoder,
        TransitionScorer,
        TransitionScorerConfig,
    )
    from hf_ptr.report.page import write_report
    from hf_ptr.scoring.config import ScoreConfig
    from hf_ptr.scoring.fit import fit_scores
    from hf_ptr.training import PTRConfig, PTRModel, PTRModelConfig, PTRTrainer

# Public names by the module that defines them. A module is imported when one of its names is first used.
_HOMES = {
    "data": ("ChunkDataset", "EpisodeTable", "WeightedChunkSampler"),
    "data.score_file": ("read_scores", "read_weights", "weight_lookup", "write_scores"),
    "detection.detect": ("Detection", "detect"),
    "detection.findings": ("Finding",),
    "detection.findings_file": ("read_findings",),
    "embodiment": ("UnifiedActionSpace",),
    "hub.datasets": ("load_dataset",),
    "policies": ("VLAPolicy", "VLAPolicyConfig", "VLAProcessor", "load_policy", "policy_from_dataset"),
    "ptr": (
        "AdaptiveScaleController",
        "BeliefTokenizer",
        "BeliefTokenizerConfig",
        "CandidatePool",
        "TargetEncoder",
        "TransitionScorer",
        "TransitionScorerConfig",
    ),
    "report.page": ("write_report",),
    "scoring.config": ("ScoreConfig",),
    "scoring.fit": ("fit_scores",),
    "training": ("PTRConfig", "PTRModel", "PTRModelConfig", "PTRTrainer"),
}
__getattr__, __dir__ = lazy_attributes(__name__, _HOMES)

# A worker process imports this package, whether it was forked, spawned or started by a server.
print_in_workers()

# Names that installers give the `hf-ptr` command: POSIX, Windows with pip or uv, Windows with setuptools.
_CONSOLE_SCRIPTS = frozenset({"hf-ptr", "hf-ptr.exe", "hf-ptr-script.py"})


def _is_console_script() -> bool:
    """Whether this process is the `hf-ptr` command, by the file name of its script, or `python -m hf_ptr`."""
    if sys.argv[:1] == ["-m"]:
        # While the package is imported, before its module runs.
        modules = (one[2:] or other for one, other in pairwise([*sys.orig_argv, ""]) if one.startswith("-m"))
        return next(modules, "") == __name__
    return bool(sys.argv) and os.path.basename(sys.argv[0]) in _CONSOLE_SCRIPTS


# Importing a component registers it with AutoConfig, AutoModel and AutoProcessor. That loads torch and transformers,
# which takes seconds, so the `hf-ptr` command skips it: `hf-ptr --help` and `hf-ptr report` need neither. Its other
# commands lose nothing, because they import the classes that they load, policies through `hf_ptr.policies`.
# The name of the script decides. The command under another name starts slower. A script of somebody else under exactly
# one of these names lacks the registration: AutoModel does not recognise a policy until the script imports
# `hf_ptr.policies`, nor a scorer or a PTR model until it imports their classes.
if not _is_console_script():
    import hf_ptr.policies
    import hf_ptr.ptr.belief_tokenizer
    import hf_ptr.ptr.scorer
    import hf_ptr.training.ptr_model  # noqa: F401 - imported to register the components

__all__ = [
    "AdaptiveScaleController",
    "BeliefTokenizer",
    "BeliefTokenizerConfig",
    "CandidatePool",
    "ChunkDataset",
    "Detection",
    "EpisodeTable",
    "Finding",
    "InputError",
    "PTRConfig",
    "PTRModel",
    "PTRModelConfig",
    "PTRTrainer",
    "ScoreConfig",
    "TargetEncoder",
    "TransitionScorer",
    "TransitionScorerConfig",
    "UnifiedActionSpace",
    "VLAPolicy",
    "VLAPolicyConfig",
    "VLAProcessor",
    "WeightedChunkSampler",
    "__version__",
    "detect",
    "fit_scores",
    "load_dataset",
    "load_policy",
    "policy_from_dataset",
    "read_findings",
    "read_scores",
    "read_weights",
    "weight_lookup",
    "write_report",
    "write_scores",
]
