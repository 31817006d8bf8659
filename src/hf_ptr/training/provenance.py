"""What a run was made of, as its folder tells it: data, base model, faults, versions, settings that were chosen."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from hf_ptr import __version__
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.corruption import CorruptionTruth
from hf_ptr.data.mixture.dataset import MixtureDataset
from hf_ptr.errors import InputError
from hf_ptr.hub.cards import license_of
from hf_ptr.hub.repos import HubRepo, origin, parse_hub_repo
from hf_ptr.training.ptr_config import ARGUMENTS_FILE, PTRConfig
from hf_ptr.training.weight_record import WEIGHTS_FILE, WeightRecord
from hf_ptr.utils.atomic_files import write_json, write_text

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "huggingface_hub", "safetensors", "numpy")
# Of TrainingArguments, what says where and how often rather than what was learned; by how the names begin.
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
    What is known when a trainer is made.

    Args:
        dataset: what is trained on; only a [`ChunkDataset`] or a mixture says where it is from.
        policy: as it was loaded.
    """
    place = getattr(policy.config, "name_or_path", "") or ""
    base = (parse_hub_repo(place) or origin(place)) if place else None
    facts: dict[str, Any] = {
        "base_model": None if not place else dataclasses.asdict(base or HubRepo(Path(place).name)),
        "base_model_on_hub": base is not None,
        "base_license": license_of(Path(place)) if place else None,
        "versions": {
            "hf-ptr": __version__,
            **{name: metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
        },
    }
    if isinstance(dataset, ChunkDataset):
        facts["data"] = _told_of(dataset)
    elif isinstance(dataset, MixtureDataset):
        facts["data"] = _told_of(dataset.parts[0]) | {"source": ", ".join(dataset.source_names), "revision": None}
        facts["data"] |= {"robot_type": ", ".join(dict.fromkeys(str(s.table.robot_type) for s in dataset.sources))}
        for key in ("episodes", "frames", "chunks"):
            facts["data"][key] = sum(_told_of(part)[key] for part in dataset.parts)
        facts["data"]["tasks"] = list(dataset.tasks)
    return facts


def _told_of(chunks: ChunkDataset) -> dict[str, Any]:
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
    Writes into a run's folder, or a checkpoint's, what it was made of.

    Args:
        folder: to write to.
        args: all settings.
        facts: of [`collect_provenance`].
        record: of the weights; None where all chunks count alike.
    """
    write_text(json.dumps(args.to_dict(), indent=2, default=str) + "\n", folder / ARGUMENTS_FILE)
    write_json(dict(facts), folder / RUN_FILE)
    weights = None if record is None else record.to_dict()
    if weights is not None:
        write_json(weights, folder / WEIGHTS_FILE)


def corruption_record(truth: CorruptionTruth) -> dict[str, Any]:
    """Faults that were put into the training data: which, by which seed, and which episodes carry each."""
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
    """As [`corruption_record`], of the sources of a mixture by their names; None where no fault was put into any."""
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
    """The faults of a dataset that was written with some; None for any other."""
    try:
        return CorruptionTruth.load(dataset)
    except InputError:
        return None


def chosen_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """
    Of a run's saved settings those that differ from the defaults, without what only says where and how often.

    The defaults are those of the fields: to make a PTRConfig would take the devices from a training under way.
    """
    chosen = {}
    for item in dataclasses.fields(PTRConfig):
        value, default = saved.get(item.name), item.default
        if isinstance(default, Enum):
            default = default.value
        # TrainingArguments makes False of some settings that are not given.
        set_by_hand = value != default and not (default is None and value is False)
        if set_by_hand and isinstance(value, bool | int | float | str) and not item.name.startswith(BOOKKEEPING):
            chosen[item.name] = value
    return chosen
