"""The base policy: the trained policy that a recipe starts from."""

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


def base_policy(recipe: Recipe) -> tuple[Any, Any, Any]:
    """
    The policy of the recipe's `policy` key, its adapter, and its processor.

    Raises:
        InputError: as [`load_for_training`], or the recipe sets a key that the policy determines.
    """
    pull_policy(recipe)
    return load_for_training(str(recipe.policy.policy))


def pull_policy(recipe: Recipe) -> None:
    """
    Downloads the policy of the recipe's `policy` key from the Hub.

    Raises:
        InputError: the recipe sets a key that the policy determines, or the policy cannot be downloaded.
    """
    source = str(recipe.policy.policy)
    require_unset([name for name in NEW_POLICY_FIELDS if name in recipe.given], source)
    model_folder(source)


def learn_new_instructions(policy: Any, processor: Any, recipe: Recipe, tasks: Sequence[str]) -> None:
    """
    Adds embeddings for the instructions that a native policy does not know yet. LoRA does not train embeddings: with
    an adapter, the processor refuses an unknown instruction.
    """
    if isinstance(policy, VLAPolicy) and not recipe.lora.use_peft:
        new = learn_instructions(policy, processor, tasks)
        if new:
            source = recipe.policy.policy
            logger.warning(f"{len(new)} instructions are new to {source}, e.g. {new[0]!r}; they are added")


def require_unset(names: Sequence[str], source: str) -> None:
    """
    Requires that a recipe sets no key that its base policy determines.

    Args:
        names: such keys in the recipe.
        source: path or repo id of the policy.

    Raises:
        InputError: `names` is not empty.
    """
    if names:
        raise InputError(f"{', '.join(names)} cannot be set with policy: {source} determines them; remove the key")
