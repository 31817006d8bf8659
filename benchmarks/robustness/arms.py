"""Arms of the benchmark: settings of a recipe, or weights computed before training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.robustness.weighting import WEIGHTINGS
from hf_ptr.errors import InputError, nearest
from hf_ptr.evaluation.episodes import AS_TRAINED

# The ablations of the paper (PTR Sec. 10). On one device "no cross-rank gather" is PTR itself.
ABLATIONS: dict[str, tuple[str, ...]] = {
    "ptr-no-belief": ("belief_tokens=0",),
    "ptr-frozen-target": ("target_decay=1.0",),
    "ptr-no-controller": ("adaptive_scale=false",),
    # exp(T/β) can reach e^10; a bound that float32 can still represent stands for "none".
    "ptr-no-clipping": ("w_min=0.0", "w_max=1.0e+30"),
    "ptr-alpha-0": ("alpha=0.0", "use_scorer=true"),
}
RECIPES = ("sft", "sft_belief", "ptr", "calibrated")
# Arms of several settings: the recipe, and what is changed.
SCALED = ("schedule=scaled", "nce_warmup_steps=3000", "warmup_steps=0.04")
NAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    # The published constants, scaled to the length of the run; the learning rate rises as in the other arms.
    "ptr-scaled": ("ptr", SCALED),
    # The bounds of before: those of the paper, and a lower one; at least half of the data kept counting.
    "calibrated-paper": ("calibrated", ("w_min=0.25", "score_settings=[min_sample_size=0.5]")),
    "calibrated-half": ("calibrated", ("w_min=0.02", "score_settings=[min_sample_size=0.5]")),
    # SFT in the order of segments: constant tokens, from which nothing reaches the policy.
    "sft-segments": ("sft_belief", ("belief_dropout=1.0", "detach_scorer=true")),
    # Every suspect changed at once, within the published equations.
    "ptr-together": (
        "ptr",
        (*SCALED, "belief_tokens=0", "missing_target_weight=mean", "hard_negatives=state", "detach_scorer=true"),
    ),
}
# Suffix of an arm that evaluates the run of another one with belief tokens reset at every chunk.
RESET = "@reset"


@dataclass(frozen=True)
class Arm:
    """
    A way of training on a corrupted dataset.

    Attributes:
        name: the name in the results.
        recipe: one of the recipes of the suite.
        overrides: settings of the recipe, `key=value`.
        weighting: computes the weights for plain weighted regression; None where the recipe determines the weights.
        needs: the arm whose finished run the weighting reads.
        separate: train a separate policy for each control mode; together they take the steps of one policy.
        belief: belief tokens in the rollouts, see `evaluate_in`. "reset" evaluates the run of the arm it needs.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    weighting: str | None = None
    needs: str | None = None
    separate: bool = False
    belief: str = AS_TRAINED


def arm_of(name: str) -> Arm:
    """
    The arm with a name. `ptr+key=value` is PTR with that setting, `ptr@reset` the run of `ptr` without carried tokens.

    Raises:
        InputError: unknown name; suggests the nearest one.
    """
    if name.endswith(RESET):
        arm = arm_of(name.removesuffix(RESET))
        return replace(arm, name=name, needs=arm.name, belief="reset")
    base, plus, settings = name.partition("+")
    if plus:
        arm = arm_of(base)
        return Arm(name, arm.recipe, (*arm.overrides, *settings.split("+")), arm.weighting, arm.needs)
    if name == "specialists":
        return Arm(name, "sft", separate=True)
    if name in RECIPES:
        return Arm(name, name)
    if name in ABLATIONS:
        return Arm(name, "ptr", ABLATIONS[name])
    if name in NAMED:
        return Arm(name, *NAMED[name])
    if name in WEIGHTINGS:
        return Arm(name, "sft", weighting=name, needs=WEIGHTINGS[name])
    known = (*RECIPES, "specialists", *ABLATIONS, *NAMED, *WEIGHTINGS)
    raise InputError(f"no arm {name!r}.{nearest(name, known)} There are: {', '.join(known)}")
