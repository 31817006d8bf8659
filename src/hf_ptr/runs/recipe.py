"""Recipes: one flat YAML file with the data, the policy and the training settings of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from peft import LoraConfig

from hf_ptr.data.episode_ids import episode_text
from hf_ptr.data.features import feature_text
from hf_ptr.errors import InputError, nearest
from hf_ptr.runs.data_arguments import EPISODE_KEYS, FEATURE_KEYS, DataArguments
from hf_ptr.runs.recipe_values import section_values
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.utils.package_data import recipe_file
from hf_ptr.utils.yaml_values import ValueLoader


@dataclass
class PolicyArguments:
    """
    The policy to train: an existing one (`policy`), or a new native policy (all other keys).

    A `size` sets its own defaults for the keys after it.
    """

    policy: str | None = field(
        default=None, metadata={"help": "Policy to post-train: path or repo id; default: a new native policy."}
    )
    size: str | None = field(
        default=None, metadata={"help": "Size of a new policy with cameras: tiny, small or internvl."}
    )
    vision_model: str | None = field(
        default=None, metadata={"help": "Pretrained vision tower: path, repo id or package:NAME."}
    )
    text_model: str | None = field(
        default=None, metadata={"help": "Pretrained text encoder: path, repo id or package:NAME."}
    )
    freeze_text: bool = field(default=False, metadata={"help": "Do not train the text encoder."})
    image_size: int = field(default=96, metadata={"help": "Height and width of the input images, in pixels."})
    target_layer: int | None = field(
        default=None, metadata={"help": "Layer of the vision tower that the target encoder reads."}
    )
    chunk_size: int = field(default=16, metadata={"help": "Number of actions that the policy predicts at once."})
    n_action_steps: int = field(default=8, metadata={"help": "Number of actions executed before the next chunk."})
    hidden_size: int = field(default=64, metadata={"help": "Width of the context tokens."})
    action_size: int = field(default=32, metadata={"help": "Width of the action tokens."})
    encoder_size: int = field(default=256, metadata={"help": "Hidden width of the observation encoder."})
    num_context_layers: int = field(default=0, metadata={"help": "Transformer layers over the context tokens."})
    expert_size: int = field(default=256, metadata={"help": "Width of the action expert."})
    num_expert_layers: int = field(default=2, metadata={"help": "Residual blocks of the action expert."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of the observation encoder and the action expert."})
    action_head: str = field(default="flow", metadata={"help": "Action head: flow, diffusion or tokens."})
    num_denoising_steps: int = field(default=4, metadata={"help": "Denoising steps at inference."})
    relative_actions: bool = field(
        default=False,
        metadata={
            "help": "Predict actions relative to the state at the start of the chunk; for actions that are target "
            "positions of the state's dimensions."
        },
    )
    min_std: float = field(
        default=0.0, metadata={"help": "Smallest standard deviation for normalising observation and state."}
    )
    pooled_actions: str = field(
        default="clean", metadata={"help": "Action tokens pooled for the scorer: clean or noised."}
    )


@dataclass
class LoraArguments:
    """The LoRA adapter, with the names of TRL."""

    use_peft: bool = field(
        default=False, metadata={"help": "Train a LoRA adapter in place of the weights; needs policy."}
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapter, before division by its rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapter's input."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Layers to adapt: names, or one regular expression."}
    )
    lora_modules_to_save: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules to train in full and save with the adapter."},
    )

    def peft_config(self) -> LoraConfig | None:
        """The configuration of the adapter; None without one."""
        if not self.use_peft:
            return None
        targets = self.lora_target_modules
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            # peft reads a string as a regular expression, and a list as suffixes of names.
            target_modules=targets[0] if len(targets) == 1 else targets,
            modules_to_save=self.lora_modules_to_save or None,
        )


NEW_POLICY_FIELDS = tuple(item.name for item in dataclasses.fields(PolicyArguments) if item.name != "policy")
SECTIONS: tuple[Any, ...] = (DataArguments, PolicyArguments, LoraArguments, PTRConfig)


@dataclass
class Recipe:
    """The settings of a recipe by section. `given` contains only the keys set in the file or on the command line."""

    data: DataArguments
    policy: PolicyArguments
    lora: LoraArguments
    training: PTRConfig
    given: dict[str, Any]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """
    Reads a recipe and applies `key=value` overrides.

    Args:
        path: path of the YAML file, a flat mapping. `recipes/…` is also found in the installed package.
        overrides: `key=value` with the value in YAML; `sources.0.key=value` sets a key of the first source.

    Raises:
        InputError: the file cannot be read, a key is unknown (with its line and the nearest known key), or a value has
            the wrong type or is out of range.
    """
    path = recipe_file(Path(path))
    known = {item.name for section in SECTIONS for item in dataclasses.fields(section) if item.init}
    given, where = _read_yaml(path)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is not a key=value override; write for example max_steps=1000")
        try:
            content = yaml.load(value, Loader=ValueLoader)
        except yaml.YAMLError as error:
            raise InputError(f"the value of {text!r} cannot be read as YAML; quote it") from error
        if key.startswith("sources."):
            _set_in_source(given, key, content)
        else:
            given[key] = content
            where[key] = "on the command line"
    if "hub_token" in given:
        raise InputError(
            f"hub_token is set {where['hub_token']}, and the folder of a run contains its recipe: remove the key, and "
            "log in with `hf auth login` or set HF_TOKEN"
        )
    for key in given:
        if key not in known:
            raise InputError(f"unknown key {key!r} {where[key]}.{nearest(str(key), known)}")
    if given.get("dataset") is None and given.get("sources") is None:
        raise InputError(f"{path} names no dataset; add 'dataset: FOLDER' or pass dataset=FOLDER")
    for key in EPISODE_KEYS:
        if given.get(key) is not None:
            try:
                given[key] = episode_text(given[key], key)
            except InputError as error:
                raise InputError(f"{error} ({where[key]})") from error
    for key in FEATURE_KEYS:
        if given.get(key) is not None:
            given[key] = feature_text(given[key])
    try:
        data, policy, lora, training = (section(**section_values(section, given)) for section in SECTIONS)
    except ValueError as error:
        raise InputError(f"{path}: {_located(str(error), where)}") from error
    if data.weights is not None and training.calibrates:
        # The weights of the file are used, and nothing is fitted.
        training.alpha = 0.0
    # Calibrated weights leave out what the policy does not enlarge; recipes that state it for the score keep that.
    if (
        training.scoring == "calibrated"
        and policy.min_std
        and not any("min_std=" in s for s in training.score_settings)
    ):
        training.score_settings = [*training.score_settings, f"min_std={policy.min_std}"]
    return Recipe(data, policy, lora, training, given)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The mapping, and the location of each key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read ({error}); pass the path of a YAML file") from error
    try:
        node = yaml.compose(text, Loader=ValueLoader)
        content = yaml.load(text, Loader=ValueLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"recipe {path} is not valid YAML{line}: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict) or node is None:
        raise InputError(f"recipe {path} is not a mapping of keys to values; the folder recipes has examples")
    where: dict[str, str] = {}
    for key_node, _ in node.value:
        key = key_node.value
        location = f"in {path}, line {key_node.start_mark.line + 1}"
        if key in where:
            raise InputError(f"key {key!r} is set again {location}; keep one")
        where[key] = location
    return content, where


def _set_in_source(given: dict[str, Any], key: str, value: Any) -> None:
    """Sets `sources.NUMBER.KEY`."""
    _, number, name = [*key.split(".", 2), ""][:3]
    sources = given.get("sources")
    listed = sources if isinstance(sources, list) else []
    source = listed[int(number)] if number.isdecimal() and int(number) < len(listed) else None
    if not name or not isinstance(source, dict):
        raise InputError(
            f"{key} is not a key of one of the {len(listed)} sources; write for example sources.0.dataset=FOLDER"
        )
    source[name] = value


def _located(message: str, where: dict[str, str]) -> str:
    """The message with the location of its key."""
    for key in sorted(where, key=len, reverse=True):
        if key in message:
            return f"{message} ({where[key]})"
    return message
