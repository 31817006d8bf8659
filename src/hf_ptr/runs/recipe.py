"""Recipes: one flat YAML file that names data, policy and training settings of a run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from peft import LoraConfig
from transformers import HfArgumentParser

from hf_ptr.errors import InputError, nearest
from hf_ptr.runs.data_arguments import DataArguments
from hf_ptr.training.ptr_config import PTRConfig


@dataclass
class PolicyArguments:
    """Which policy is post-trained: one from a folder or the Hub, or a new native policy of the given size."""

    policy: str | None = field(default=None, metadata={"help": "Folder or Hub id; a new native policy by default."})
    size: str | None = field(default=None, metadata={"help": "Size of a policy on pictures: tiny, small, internvl."})
    vision_model: str | None = field(default=None, metadata={"help": "Vision tower: folder, Hub id or package:NAME."})
    text_model: str | None = field(default=None, metadata={"help": "Pretrained text encoder, named alike."})
    freeze_text: bool = field(default=False, metadata={"help": "Leave the text encoder as it was pretrained."})
    image_size: int = field(default=96, metadata={"help": "Height and width of the pictures that the policy reads."})
    target_layer: int | None = field(default=None, metadata={"help": "Vision layer that the target encoder reads."})
    chunk_size: int = field(default=16, metadata={"help": "Actions predicted at once."})
    n_action_steps: int = field(default=8, metadata={"help": "Actions executed before the next chunk."})
    hidden_size: int = field(default=64, metadata={"help": "Width of the context tokens."})
    action_size: int = field(default=32, metadata={"help": "Width of the action tokens."})
    encoder_size: int = field(default=256, metadata={"help": "Hidden width of the observation encoder."})
    num_context_layers: int = field(default=0, metadata={"help": "Context layers before the attention pool."})
    expert_size: int = field(default=256, metadata={"help": "Width of the action expert."})
    num_expert_layers: int = field(default=2, metadata={"help": "Residual blocks of the action expert."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout in observation encoder and action expert."})
    action_head: str = field(default="flow", metadata={"help": "flow, diffusion or tokens."})
    num_denoising_steps: int = field(default=4, metadata={"help": "Steps from noise to actions at inference."})
    relative_actions: bool = field(default=False, metadata={"help": "Act relative to the state at a chunk's start."})
    min_std: float = field(
        default=0.0, metadata={"help": "Least scale of observation and state, in their units, as 0.3 (rad)."}
    )
    pooled_actions: str = field(default="clean", metadata={"help": "What e pools: clean or noised action tokens."})


@dataclass
class LoraArguments:
    """Whether the policy is trained by a LoRA adapter, under TRL's names."""

    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter on the policy; needs policy."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapter, divided by its rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapter."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Names, or one pattern, of the layers to adapt."}
    )
    lora_modules_to_save: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules that are trained in full and saved with the adapter."},
    )

    def peft_config(self) -> LoraConfig | None:
        """The adapter's configuration; None without one."""
        if not self.use_peft:
            return None
        targets = self.lora_target_modules
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            # peft reads a text as a pattern, and a list as the ends of names.
            target_modules=targets[0] if len(targets) == 1 else targets,
            modules_to_save=self.lora_modules_to_save or None,
        )


NEW_POLICY_FIELDS = tuple(item.name for item in dataclasses.fields(PolicyArguments) if item.name != "policy")
SECTIONS: tuple[Any, ...] = (DataArguments, PolicyArguments, LoraArguments, PTRConfig)


@dataclass
class Recipe:
    """What a recipe says, by section; `given` holds just the keys that the file and the command line set."""

    data: DataArguments
    policy: PolicyArguments
    lora: LoraArguments
    training: PTRConfig
    given: dict[str, Any]


class _Loader(yaml.SafeLoader):
    """
    The scalars of YAML 1.2. PyYAML reads those of 1.1, to which `0:16` is the number sixteen in base 60, `no` is false
    and `1e-3` is text.
    """


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


class _Parser(HfArgumentParser):
    """Converts and checks types; its complaints become one line instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """
    Reads a recipe and applies `key=value` overrides.

    Args:
        path: of the YAML file, a flat mapping.
        overrides: `key=value`, the value in YAML; `sources.0.key=value` is of the first source.

    Raises:
        InputError: for a file that is none, an unknown key (with its line and the nearest known one), a value of the
            wrong type or out of range.
    """
    path = Path(path)
    known = {item.name for section in SECTIONS for item in dataclasses.fields(section) if item.init}
    given, where = _read_yaml(path)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is no key=value override; write for example max_steps=1000")
        try:
            content = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError as error:
            raise InputError(f"the value of {text!r} cannot be read as YAML; quote it") from error
        if key.startswith("sources."):
            _set_of_source(given, key, content)
        else:
            given[key] = content
            where[key] = "on the command line"
    if "hub_token" in given:
        raise InputError(
            f"hub_token stands {where['hub_token']}, and a run's folder keeps its recipe: take it out, and log in "
            "with `hf auth login` or set HF_TOKEN"
        )
    for key in given:
        if key not in known:
            raise InputError(f"unknown key {key!r} {where[key]}.{nearest(str(key), known)}")
    if given.get("dataset") is None and given.get("sources") is None:
        raise InputError(f"{path} names no dataset; add 'dataset: FOLDER' or pass dataset=FOLDER")
    arguments = [text for key, value in given.items() if value is not None for text in _as_argument(key, value)]
    parser = _Parser(list(SECTIONS), allow_abbrev=False)
    try:
        data, policy, lora, training = parser.parse_args_into_dataclasses(args=arguments, look_for_args_file=False)
    except InputError as error:
        raise InputError(f"{path}: {_located(str(error), where)}") from error
    except ValueError as error:
        raise InputError(f"{path}: {_located(str(error), where)}") from error
    return Recipe(data, policy, lora, training, given)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The mapping, and for each key where it stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read ({error}); pass the path of a YAML file") from error
    try:
        node = yaml.compose(text, Loader=_Loader)
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"recipe {path} is not valid YAML{line}: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict) or node is None:
        raise InputError(f"recipe {path} is not a mapping of keys to values; see the recipes folder for examples")
    where: dict[str, str] = {}
    for key_node, _ in node.value:
        key = key_node.value
        place = f"in {path}, line {key_node.start_mark.line + 1}"
        if key in where:
            raise InputError(f"key {key!r} stands twice {place}; keep one")
        where[key] = place
    return content, where


def _set_of_source(given: dict[str, Any], key: str, value: Any) -> None:
    """Sets what `sources.NUMBER.KEY` names."""
    _, number, name = [*key.split(".", 2), ""][:3]
    sources = given.get("sources")
    listed = sources if isinstance(sources, list) else []
    source = listed[int(number)] if number.isdecimal() and int(number) < len(listed) else None
    if not name or not isinstance(source, dict):
        raise InputError(
            f"{key} is no key of one of the {len(listed)} sources; write for example sources.0.dataset=FOLDER"
        )
    source[name] = value


def _as_argument(key: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{key}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value)]
    # With "=", a value that begins with a minus is not taken for an option.
    return [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}"]


def _located(message: str, where: dict[str, str]) -> str:
    """The parser's message, with the place of the key it speaks of."""
    message = re.sub(r"^argument --(\w+)\S*:", r"\1:", message)
    for key in sorted(where, key=len, reverse=True):
        if key in message:
            return f"{message} ({where[key]})"
    return message
