"""Cards of what is pushed, from the templates in `model_cards/`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from hf_ptr.hub.repos import HUB_ID

TAGS = ["robotics", "imitation-learning", "posterior-transition-reweighting"]
# Stands in a card that was made; one without it was written by somebody, and is left alone.
MADE_BY = "<!-- Made by hf-ptr from the run. Take this line out to keep what you write here. -->"
CODE = ("robot_type", "revision", "state_feature", "action_feature")
# What has a meaning in Markdown, HTML or a table's cell.
SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


@dataclass(frozen=True)
class Result:
    """
    A figure of an evaluation.

    Attributes:
        metric: its id, as `success_rate`.
        value, interval: with its 95 % interval, where there is one.
        n: independent episodes.
        where: environment or dataset, readable.
        dataset: its id for the model index.
        details: what else the evaluation was made with.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None
    n: int
    where: str
    dataset: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def entry(self) -> EvalResult:
        """For the model index."""
        arguments = {"episodes": self.n, **self.details}
        if self.interval is not None:
            arguments |= {"interval": list(self.interval), "confidence_level": 0.95}
        return EvalResult(
            task_type="robotics",
            task_name="Robot control",
            dataset_type=self.dataset,
            dataset_name=self.where,
            metric_type=self.metric,
            metric_name=self.metric.replace("_", " "),
            metric_value=self.value,
            metric_args=arguments,
        )


@dataclass(frozen=True)
class Facts:
    """
    What a card tells of a run.

    Attributes:
        repo_id: where it is pushed.
        method: how the demonstrations were weighed, in words.
        data: what [`collect_provenance`] says of the data; None where nothing is known.
        corruption: the faults that were put into them, if any.
        settings: what was chosen.
        weights: the record of the weights; None where all counted alike.
        sources: each with its share of the chunks and of the weight.
        steps: how long it trained, in words.
        results: of evaluations.
        versions: of the packages.
        base_model: the policy it goes on from, `(name, whether it is on the Hub)`.
        license: its id, if known.
        language: of the instructions, its code, if it was said.
        tags: besides our own.
        parts: folders beside the policy.
        picture: of the weights, relative to the card.
    """

    repo_id: str
    method: str = ""
    data: Mapping[str, Any] | None = None
    corruption: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] | None = None
    sources: Sequence[tuple[str, float, float]] = ()
    steps: str = ""
    results: Sequence[Result] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    base_model: tuple[str, bool] | None = None
    license: str | None = None
    language: str | None = None
    tags: Sequence[str] = ()
    parts: Sequence[str] = ()
    picture: str | None = None


def policy_card(facts: Facts, adapter: Mapping[str, Any] | None = None) -> ModelCard:
    """The card of a post-trained policy; with the settings of an adapter, that of the adapter."""
    base = facts.base_model
    data = ModelCardData(
        license=facts.license,
        language=facts.language,
        library_name="hf-ptr" if adapter is None else "peft",
        pipeline_tag="robotics",
        tags=[*TAGS, *(["lora"] if adapter is not None else []), *facts.tags],
        datasets=_on_hub(facts.data),
        base_model=base[0] if base is not None and base[1] else None,
        base_model_relation=None if base is None or not base[1] else "adapter" if adapter else "finetune",
        model_name=_name(facts.repo_id) if facts.results else None,
        eval_results=[result.entry() for result in facts.results] or None,
    )
    return ModelCard.from_template(
        data,
        template_str=_template("policy" if adapter is None else "adapter"),
        **_common(facts),
        robot=plain(facts.data.get("robot_type") or "a robot") if facts.data else "a robot",
        method=facts.method,
        base_model="" if base is None else _link(*base),
        parts=", ".join(f"`{part}/`" for part in facts.parts),
        evaluation=[_row(result) for result in facts.results],
        adapter=_settings(adapter or {}),
    )


def component_card(facts: Facts, config: Mapping[str, Any]) -> ModelCard:
    """The card of a scorer or belief tokenizer that is pushed by itself."""
    data = ModelCardData(
        license=facts.license,
        language=facts.language,
        library_name="hf-ptr",
        pipeline_tag="robotics",
        tags=[*TAGS, *facts.tags],
        datasets=_on_hub(facts.data),
    )
    return ModelCard.from_template(
        data,
        template_str=_template("scorer"),
        **_common(facts),
        kind=config["model_type"],
        config=_settings({name: value for name, value in config.items() if isinstance(value, int | float)}),
    )


def score_card(facts: Facts, scorer: str, extra: Sequence[str] = ()) -> DatasetCard:
    """The card of a score file as a dataset."""
    assert facts.data is not None
    data = DatasetCardData(
        license=facts.license,
        tags=[*TAGS, "sample-weights"],
        source_datasets=_on_hub(facts.data),
        pretty_name=_name(facts.repo_id),
        configs=[{"config_name": "default", "data_files": "scores.parquet"}],
    )
    return DatasetCard.from_template(
        data,
        template_str=_template("scores"),
        **_common(facts),
        scorer=plain(scorer),
        dataset=facts.data["source"] if _on_hub(facts.data) else "DIR",
        extra=", ".join(f"`{code(name)}`" for name in extra),
    )


def plain(text: object) -> str:
    """Text of a dataset or a user as Markdown shows it, on one line: it can be no markup."""
    return SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """As [`plain`], for text that the template puts between backticks."""
    return " ".join(str(text).replace("`", "'").split())


def license_of(folder: Path) -> str | None:
    """The licence that the card in a folder states, if any."""
    file = folder / "README.md"
    if not file.is_file():
        return None
    try:
        return getattr(ModelCard.load(file, ignore_metadata_errors=True).data, "license", None)
    except ValueError:
        return None


def _common(facts: Facts) -> dict[str, Any]:
    data = None
    if facts.data is not None:
        features = facts.data.get("observation_features") or ()
        data = {
            **facts.data,
            "link": _link(facts.data["source"], bool(_on_hub(facts.data))),
            "tasks": [plain(task) for task in facts.data.get("tasks") or ()],
            "observation_features": ", ".join(f"`{code(name)}`" for name in features),
            **{key: code(facts.data[key]) for key in CODE if facts.data.get(key)},
        }
    corruption = None
    if facts.corruption is not None:
        counts = ", ".join(f"{plain(name)}: {count}" for name, count in facts.corruption["faults"].items())
        corruption = {**facts.corruption, "protocol": code(facts.corruption["protocol"]), "faults": counts}
    weights = None
    if facts.weights is not None:
        weights = {name: f"{facts.weights[name]:.3g}" for name in ("mean", "ess", "low", "high")}
    return {
        "made_by": MADE_BY,
        "title": _name(facts.repo_id),
        "repo_id": facts.repo_id,
        "data": data,
        "corruption": corruption,
        "settings": _settings(facts.settings),
        "weights": weights,
        "sources": [
            {
                "name": plain(name),
                "share": f"{share:.3f}",
                "weight": f"{weight:.3f}",
                "shift": f"{weight / share:.3f}" if share else "-",
            }
            for name, share, weight in facts.sources
        ],
        "steps": facts.steps,
        "versions": facts.versions,
        "license": facts.license,
        "picture": facts.picture,
    }


def _settings(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: plain(value) for name, value in sorted(settings.items())}


def _row(result: Result) -> dict[str, str]:
    low, high = result.interval or (math.nan, math.nan)
    return {
        "where": plain(result.where),
        "metric": plain(result.metric.replace("_", " ")),
        "value": f"{result.value:.4g}",
        "interval": "-" if result.interval is None else f"{low:.4g} to {high:.4g}",
        "n": str(result.n),
    }


def _name(repo_id: str) -> str:
    return repo_id.rpartition("/")[2]


def _on_hub(data: Mapping[str, Any] | None) -> list[str] | None:
    """The dataset's id, where it was pulled from the Hub or is said to be there: a folder's name means nothing."""
    there = data is not None and (data.get("revision") or data.get("on_hub"))
    return [data["source"]] if data is not None and there and HUB_ID.fullmatch(data["source"]) else None


def _link(name: str, on_hub: bool) -> str:
    return f"`{code(name)}`" if not on_hub else f"[{name}](https://huggingface.co/{name})"


def _template(name: str) -> str:
    folder = templates()
    return (folder / "parts.md").read_text(encoding="utf-8") + (folder / f"{name}.md").read_text(encoding="utf-8")


def templates() -> Path:
    """The folder of the templates: within the installed package, or beside `src` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "model_cards"
    return installed if installed.is_dir() else package.parents[1] / "model_cards"
