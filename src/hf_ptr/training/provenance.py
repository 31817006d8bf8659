"""Provenance of a run, kept in its folder: data, base model, corruption, package versions and settings."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from hf_ptr._version import __version__
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.corruption import CorruptionTruth
from hf_ptr.data.mixture.dataset import MixtureDataset
from hf_ptr.errors import InputError
from hf_ptr.hub.cards import license_of
from hf_ptr.hub.repos import HubRepo, origin, parse_hub_repo
from hf_ptr.training.ptr_config import ARGUMENTS_FILE, PTRConfig, default_of
from hf_ptr.training.weight_record import WEIGHTS_FILE, WeightRecord
from hf_ptr.utils.atomic_files import write_json, write_text

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "huggingface_hub", "safetensors", "numpy")
# Prefixes of TrainingArguments that control where files go and how often, not what is learned; cards leave them out.
BOOKKEEPING = (
    *("output_dir", "run_name", "project", "disable_tqdm", "report_to", "push_to_hub", "hub_", "do_", "use_cpu"),
    *(
        "save_",
        "logging_",
        "log_level",
        "eval_",
        "dataloader_",
        "resume_from_checkpoint",
        "local_rank",
        "ddp_",
        "trackio_",
    ),
)


def collect_provenance(dataset: Any, policy: Any) -> dict[str, Any]:
    """
    Collects the facts that are known when a trainer is built.

    Args:
        dataset: the training data; only a [`ChunkDataset`] or a [`MixtureDataset`] records its origin.
        policy: the policy as it was loaded.

    Returns:
        `base_model`, `base_model_on_hub`, `base_license`, `versions` and, where the origin is known, `data`.
    """
    source = getattr(policy.config, "name_or_path", "") or ""
    base = (parse_hub_repo(source) or origin(source)) if source else None
    facts: dict[str, Any] = {
        "base_model": None if not source else dataclasses.asdict(base or HubRepo(Path(source).name)),
        "base_model_on_hub": base is not None,
        "base_license": license_of(Path(source)) if source else None,
        "versions": {
            "hf-ptr": __version__,
            **{name: metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
        },
    }
    if isinstance(dataset, ChunkDataset):
        facts["data"] = _data_facts(dataset)
    elif isinstance(dataset, MixtureDataset):
        facts["data"] = _data_facts(dataset.parts[0]) | {"source": ", ".join(dataset.source_names), "revision": None}
        facts["data"] |= {"robot_type": ", ".join(dict.fromkeys(str(s.table.robot_type) for s in dataset.sources))}
        for key in ("episodes", "frames", "chunks"):
            facts["data"][key] = sum(_data_facts(part)[key] for part in dataset.parts)
        facts["data"]["tasks"] = list(dataset.tasks)
    return facts


def _data_facts(chunks: ChunkDataset) -> dict[str, Any]:
    table = chunks.table
    return {
        "source": table.source,
        "revision": table.revision,
        "episodes": table.num_episodes,
        "frames": table.num_frames,
        "chunks": len(chunks),
        "robot_type": table.robot_type,
        "fps": table.fps,
        "tasks": list(table.tasks),
        "observation_features": list(chunks.observation_features),
        "state_feature": chunks.state_feature,
        "action_feature": chunks.action_feature,
    }


def write_provenance(folder: Path, args: PTRConfig, facts: Mapping[str, Any], record: WeightRecord | None) -> None:
    """
    Writes the settings, the provenance and the weight record into the folder of a run or checkpoint.

    Args:
        folder: the folder to write to.
        args: all settings.
        facts: the result of [`collect_provenance`].
        record: the record of the weights; None where all chunks have the same weight.
    """
    write_text(json.dumps(args.to_dict(), indent=2, default=str) + "\n", folder / ARGUMENTS_FILE)
    write_json(dict(facts), folder / RUN_FILE)
    weights = None if record is None else record.to_dict()
    if weights is not None:
        write_json(weights, folder / WEIGHTS_FILE)


def corruption_record(truth: CorruptionTruth) -> dict[str, Any]:
    """The planted faults of the training data: their protocol, their seed, and the episodes that carry each."""
    carriers = {name: truth.episode_index[carries].tolist() for name, carries in truth.faults.items()}
    return {
        "protocol": truth.recipe,
        "seed": truth.seed,
        "severity": truth.severity,
        "faults": {name: len(episodes) for name, episodes in carriers.items()},
        "episodes": int(truth.any.sum()),
        "carriers": carriers,
    }


def mixture_corruption_record(truths: Mapping[str, CorruptionTruth]) -> dict[str, Any] | None:
    """[`corruption_record`] of a mixture, given the truth of each source by name; None if no source has a fault."""
    faulty = {name: corruption_record(truth) for name, truth in truths.items() if truth.faults}
    if not faulty:
        return None
    return {
        "protocol": ", ".join(f"{name}: {part['protocol']}" for name, part in faulty.items()),
        "seed": ", ".join(dict.fromkeys(str(part["seed"]) for part in faulty.values())),
        "severity": ", ".join(dict.fromkeys(f"{part['severity']:g}" for part in faulty.values())),
        "episodes": sum(part["episodes"] for part in faulty.values()),
        **{
            key: {f"{name}: {fault}": value for name, part in faulty.items() for fault, value in part[key].items()}
            for key in ("faults", "carriers")
        },
    }


def load_corruption_truth(dataset: str | Path) -> CorruptionTruth | None:
    """The planted faults that a dataset folder records; None if it records none."""
    try:
        return CorruptionTruth.load(dataset)
    except InputError:
        return None


def chosen_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """
    The saved settings of a run that differ from the defaults, without bookkeeping (paths, logging, saving).

    The defaults are read from the dataclass fields: building a PTRConfig would initialise the devices, which a
    running training already uses.
    """
    chosen = {}
    for item in dataclasses.fields(PTRConfig):
        value, default = saved.get(item.name), default_of(item, saved.get("scoring", "paper"))
        if isinstance(default, Enum):
            default = default.value
        # TrainingArguments replaces None by False in some settings that were not given.
        set_by_hand = value != default and not (default is None and value is False)
        if set_by_hand and isinstance(value, bool | int | float | str) and not item.name.startswith(BOOKKEEPING):
            chosen[item.name] = value
    return chosen
