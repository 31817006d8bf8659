"""A policy that a recipe goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.utils import logging

from hf_ptr.errors import InputError
from hf_ptr.hub.repos import model_folder
from hf_ptr.policies import VLAPolicy
from hf_ptr.policies.loading import load_for_training
from hf_ptr.policies.vla.building import learn_instructions
from hf_ptr.runs.recipe import NEW_POLICY_FIELDS, Recipe

logger = logging.get_logger(__name__)


def given_policy(recipe: Recipe) -> tuple[Any, Any, Any]:
    """
    The policy that `policy` names, what keeps the contract for it, and its processor.

    Raises:
        InputError: as [`load_for_training`], or the recipe sets what the policy brings.
    """
    pull_policy(recipe)
    return load_for_training(str(recipe.policy.policy))


def pull_policy(recipe: Recipe) -> None:
    """
    Pulls the policy that `policy` names, where it is on the Hub.

    Raises:
        InputError: the recipe sets what the policy brings, or it cannot be pulled.
    """
    place = str(recipe.policy.policy)
    refuse_settings([name for name in NEW_POLICY_FIELDS if name in recipe.given], place)
    model_folder(place)


def teach(policy: Any, processor: Any, recipe: Recipe, tasks: Sequence[str]) -> None:
    """
    Lets a native policy learn the instructions that it lacks. Under LoRA embeddings are not trained, and an
    instruction that the policy lacks is refused when it is encoded.
    """
    if isinstance(policy, VLAPolicy) and not recipe.lora.use_peft:
        new = learn_instructions(policy, processor, tasks)
        if new:
            place = recipe.policy.policy
            logger.warning(f"{len(new)} instructions are new to {place}, such as {new[0]!r}; it learns them")


def refuse_settings(names: Sequence[str], place: str) -> None:
    """
    Refuses keys of a recipe that a policy brings.

    Raises:
        InputError: there are some.
    """
    if names:
        raise InputError(f"{', '.join(names)} cannot be set with policy: {place} brings its own; remove the key")
