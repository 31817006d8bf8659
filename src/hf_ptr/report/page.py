"""The report: one HTML file that loads nothing from the network, for a run or a score file, or for two of them."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import logging
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from hf_ptr._version import __version__
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.versions import conversion_command, copy_of, has_v21_files
from hf_ptr.errors import InputError
from hf_ptr.hub.push import without_local_paths
from hf_ptr.hub.repos import origin, parse_hub_repo
from hf_ptr.report import plots, verdict, wording
from hf_ptr.report.clock import clock_sentence, frame_edges
from hf_ptr.report.comparison import compare_episodes, compare_values
from hf_ptr.report.episode_cards import EpisodeCard, episode_card
from hf_ptr.report.expectation import expectation_of
from hf_ptr.report.finding_rows import finding_rows, next_steps, reasons_of
from hf_ptr.report.inputs import (
    ReportInput,
    add_run_scores,
    load_scored_table,
    read_report_input,
    require_frames_of,
    require_rows_of,
)
from hf_ptr.report.note_sections import note_sections, shown_notes
from hf_ptr.report.power_rows import power_rows
from hf_ptr.report.statistics import (
    ess_ratio,
    logged_series,
    measure_known_faults,
    share_shifts,
    summarise_episodes,
)
from hf_ptr.training.time_constants import scaled_steps
from hf_ptr.utils.atomic_files import require_folder_of, write_text
from hf_ptr.utils.progress import progress_bar

logger = logging.getLogger(__name__)
# Episodes with faults that have a card, and checks in a card; the table of findings has all. Scores without findings
# have the lowest and the highest weights.
CARDS, CHECKS = 12, 5
LOWEST, HIGHEST = 6, 3
# Points of the small curve of each episode in the table. Few, because a page of thousands of episodes must stay small.
CURVE_POINTS = 40
HISTOGRAM_BINS = 32
# Title and explanation of each logged metric, in the order of the paper's figures.
METRICS = {
    "loss_action": ("action loss", "loss of the policy, with the weights in use"),
    "nce_acc": ("identification accuracy", "how often the next observation is identified among all candidates"),
    "ptr_score": (
        "PTR score T (nats)",
        "log posterior relative to a uniform guess; 0 is chance, log of the number of candidates is the maximum",
    ),
    "nce_margin": ("margin", "logit of the match minus the highest logit of a mismatch"),
    "scorer_temperature": ("temperature τ", "set by the controller within 0.03 to 0.20"),
    "beta": ("scale β", "set by the controller within 0.5 to 3"),
    "hard_negative_ratio": ("hard-negative ratio", "share of similar candidates among the negatives, 0 to 0.5"),
    "ess": ("effective sample size / n", "1: all chunks have the same weight"),
    "belief_entropy": ("belief entropy H_tok", "decreases as each belief token attends to fewer moments"),
    "weight_mean": ("mean weight", "near the upper bound, with an ess near 1: the weights have no effect"),
}


def write_report(
    source: str | Path | ReportInput,
    out: str | Path | None = None,
    *,
    dataset: str | Path | EpisodeTable | None = None,
    compare: str | Path | ReportInput | None = None,
    episodes: Collection[int] | None = None,
    skip: Collection[int] = (),
    public: bool = False,
) -> Path:
    """
    Writes a report on the scores of a dataset or on a training run, as one HTML file.

    ```python
    from hf_ptr import write_report

    write_report("scores.parquet", "report.html", dataset="data/g1_bottle")
    ```

    Args:
        source: a score file or the folder of a run.
        out: the HTML file to write; default: `report.html` in the folder of the run, or next to the score file with
            the ending `.html`.
        dataset: the path or repo id of the dataset that was scored, or its episodes; default: the folder that the
            score file or run names. Without a dataset the report has no film strips and no instructions.
        compare: a second score file or run, to compare with.
        episodes, skip: ids of the episodes to report, and of those to leave out; they need a dataset.
        public: name local files and folders without the folder that they are in, also in commands.

    Returns:
        The HTML file.

    Raises:
        InputError: the source is not a run or score file or is damaged, the dataset does not exist or is not the one
            that was scored, or the output is not an HTML file.
    """
    report = source if isinstance(source, ReportInput) else read_report_input(source)
    compared = compare if isinstance(compare, ReportInput | None) else read_report_input(compare)
    out = _output_file(report, out)
    if isinstance(dataset, EpisodeTable):
        table: EpisodeTable | None = dataset
    else:
        table = load_scored_table(report, dataset, episodes=episodes, skip=skip)
    if table is None:
        if episodes is not None or skip:
            raise InputError("the episodes of a report are selected in its dataset; pass --dataset, a path or repo id")
        logger.warning("No film strips and no instructions in the report: pass --dataset, a path or repo id.")
    else:
        report = add_run_scores(report, table)
        compared = None if compared is None else add_run_scores(compared, table)
    if report.scores is None and not report.log:
        raise InputError(f"{report.name} contains neither scores nor a log; pass a score file or a finished run")
    named = report.dataset if dataset is None or isinstance(dataset, EpisodeTable) else str(dataset)
    # The cache folder of a dataset on the Hub is named by a commit.
    repo = None if named is None else origin(named)
    named = named if repo is None else repo.repo_id
    command = delete_command(named)
    if public:
        shown = None if named is None else _short_name(named)
        command = delete_command(named, shown)
        report, compared, named = _without_folders(report, shown), compared and _without_folders(compared), shown
    write_text(_render(_contents(report, compared, table, named, command)), out)
    return out


def _without_folders(report: ReportInput, dataset: str | None = None) -> ReportInput:
    """The input with the names of local files and folders in place of their paths; `dataset` replaces the recorded."""
    recipe = {**without_local_paths(report.recipe), **({} if dataset is None else {"dataset": dataset})}
    path = None if report.path is None else Path(report.path.name or report.name)
    return dataclasses.replace(report, recipe=recipe, path=path)


def _short_name(dataset: str) -> str:
    """The repo id of a dataset on the Hub, or the name of its folder."""
    return dataset if parse_hub_repo(dataset) is not None else Path(dataset).name


def _output_file(report: ReportInput, out: str | Path | None) -> Path:
    if out is None:
        if report.path is None:
            raise InputError("out is missing; pass the HTML file to write")
        return report.path / "report.html" if report.path.is_dir() else report.path.with_suffix(".html")
    out = Path(out)
    if out.is_dir() or out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out} is not the name of an HTML file; end it in .html")
    require_folder_of(out)
    return out


def _render(contents: dict[str, Any]) -> str:
    templates = jinja2.PackageLoader("hf_ptr.report")
    environment = jinja2.Environment(
        loader=templates,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (templates.get_source(environment, name)[0] for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.jinja").render(
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        # The browser loads nothing and runs only this script, whatever the data contain.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        **contents,
    )


def _contents(
    report: ReportInput,
    compared: ReportInput | None,
    table: EpisodeTable | None,
    named: str | None,
    command: tuple[str, str],
) -> dict[str, Any]:
    """The variables of the template."""
    both = [report] if compared is None else [report, compared]
    titles = {metric: title for metric, (title, _) in METRICS.items()}
    contents: dict[str, Any] = {
        "name": report.name,
        "dataset": None if named is None else _short_name(named),
        "compared": None if compared is None else compared.name,
        "figures": [],
        "findings": wording.explain_log(report),
        "limits": wording.explain_limits(report),
        "curves": _curves(both),
        "histogram": _histogram(report),
        "settings": {
            name: value for name, value in report.recipe.items() if isinstance(value, str | int | float | bool | list)
        },
        "side_by_side": [] if compared is None else compare_values(report, compared, titles),
        "agreement": None,
        "tasks": [],
        "sources": [],
        "faults": [],
        "faulty": [],
        "found": None,
        "notes": [],
        "power": None,
        "next_steps": next_steps(report) if report.settings else [],
        "lowest": [],
        "highest": [],
        "episodes": None,
        "shift_bounds": None,
        "legend": "",
        "clock": "" if table is None else clock_sentence(table),
    }
    if report.scores is not None:
        contents |= _scores_contents(report, report.scores, compared, table, command, contents["findings"])
    return contents


def _scores_contents(
    report: ReportInput,
    scores: pd.DataFrame,
    compared: ReportInput | None,
    table: EpisodeTable | None,
    command: tuple[str, str],
    from_log: list[str],
) -> dict[str, Any]:
    """The variables of the template that need scores."""
    if table is not None:
        require_rows_of(scores, table)
        require_frames_of(report, table)
    episodes = summarise_episodes(scores, report.flagged)
    tasks = _task_names(episodes, table)
    by_task = share_shifts(scores, [tasks[number] for number in _column(scores, "task_index", 0)])
    low, high = report.bounds
    order = episodes.sort_values(["weight", "score"]).index
    findings = report.findings or ()
    faulty = sorted(report.flagged, key=lambda number: -verdict.main_fault(findings, number).probability)[:CARDS]
    noted = {found.episode_index for found in shown_notes(findings, len(episodes), report.harm)}
    expected = None if table is None else expectation_of(table, report.made, {*faulty, *noted})

    def card(number: Any) -> EpisodeCard:
        return episode_card(
            episodes.loc[number],
            scores[scores.episode_index == number],
            report.bounds,
            table,
            tasks[int(episodes.task_index[number])],
            [found for found, _ in verdict.by_check(findings) if found.episode_index == number][:CHECKS],
            expected,
        )

    def cards(numbers: Sequence[Any]) -> list[EpisodeCard]:
        with progress_bar() as progress:
            return [card(number) for number in progress.track(numbers, description="drawing episodes")]

    contents = {
        "figures": _key_figures(report, scores, episodes),
        "findings": [*wording.explain_scores(report, episodes, by_task), *from_log],
        "legend": wording.explain_columns(report),
        "shift_bounds": (low / high, high / low) if low > 0 else None,
        "tasks": by_task,
        "sources": share_shifts(scores, _column(scores, "source", "")),
        "faults": measure_known_faults(episodes),
        "faulty": cards(faulty),
        "episodes": _episode_rows(report, episodes, scores, tasks, table, command),
    }
    if report.findings is None:
        contents["lowest"] = cards(order[: min(LOWEST, (len(order) + 1) // 2)])
        contents["highest"] = cards(order[::-1][: min(HIGHEST, len(order) // 2)])
    else:
        lengths = {int(number): int(frames) for number, frames in episodes.frames.items()}
        contents["found"] = finding_rows(report.findings, lengths)
        contents["notes"] = note_sections(report.findings, lengths, table, report.harm, expected)
        contents["power"] = power_rows(report.power)
        contents["next_steps"] = next_steps(report)
    if compared is not None and compared.scores is not None:
        contents["agreement"] = compare_episodes(episodes, summarise_episodes(compared.scores))
    return contents


def _key_figures(report: ReportInput, scores: pd.DataFrame, episodes: pd.DataFrame) -> list[tuple[str, str]]:
    return [
        ("episodes", str(len(episodes))),
        *(
            []
            if report.findings is None
            else [("with a fault", str(len(report.flagged))), ("with lower weights only", str(len(report.lowered)))]
        ),
        ("mean weight", f"{scores.weight.mean():.2f}"),
        ("effective sample size", f"{ess_ratio(scores.weight.to_numpy()):.0%}"),
    ]


def _column(scores: pd.DataFrame, name: str, default: Any) -> list[Any]:
    return scores[name].tolist() if name in scores else [default] * len(scores)


def _task_names(episodes: pd.DataFrame, table: EpisodeTable | None) -> dict[int, str]:
    """The instruction of each task number, or a name with the number if the dataset is not available."""
    known = () if table is None else table.tasks
    numbers = episodes.task_index.unique().tolist()
    return {number: known[number] if 0 <= number < len(known) else f"task {number}" for number in numbers}


def _curves(both: Sequence[ReportInput]) -> list[dict[str, Any]]:
    """The plots of the logged metrics that have at least two points."""
    panels = []
    for metric, (title, meaning) in METRICS.items():
        lines = [(name, logged_series(one.log, metric)) for name, one in zip("AB", both, strict=False)]
        if any(len(points) > 1 for _, points in lines):
            panels.append({"title": title, "meaning": meaning, "svg": Markup(plots.curve(lines, title))})
    return panels


def _histogram(report: ReportInput) -> dict[str, Any] | None:
    """The histogram of the weights: early and late in training if the run logged them, else of the score file."""
    logged = report.histograms
    if logged:
        # During the warm-up the weights are 1 by definition.
        warm_up = report.settings.get("nce_warmup_steps", 0)
        if report.settings.get("schedule") == "scaled":
            warm_up = scaled_steps(warm_up, report.settings["max_steps"])
        weighted = [line for line in logged if line["step"] > warm_up] or logged
        early, late = ((np.array(line["edges"]), np.array(line["counts"])) for line in (weighted[0], weighted[-1]))
        words = f"Early: batches up to step {weighted[0]['step']}. Late: batches up to step {weighted[-1]['step']}."
        return {"svg": Markup(plots.weight_histogram(late, early, report.bounds)), "words": words}
    if report.scores is None:
        return None
    low, high = report.bounds
    edges = np.linspace(low, high if high > low else low + 1.0, HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(report.scores.weight, edges)
    words = "The weights of a score file do not change during training."
    return {"svg": Markup(plots.weight_histogram((edges, counts), None, report.bounds)), "words": words}


def _episode_rows(
    report: ReportInput,
    episodes: pd.DataFrame,
    scores: pd.DataFrame,
    task_names: dict[int, str],
    table: EpisodeTable | None,
    command: tuple[str, str],
) -> dict[str, Any]:
    """The data of the table of all episodes, by column. The weight over time is coded as integers from 0 to 99."""
    low, high = report.bounds
    findings = report.findings
    if findings is None:
        reasons = episodes.failed.tolist()
    else:
        found = reasons_of(findings, report.harm)
        reasons = [found.get(int(number), "") for number in episodes.index]
    scale = 99.0 / (high - low) if high > low else 0.0
    curves = []
    for _, weights in scores.groupby("episode_index", sort=True).weight:
        values = weights.to_numpy()
        positions = np.linspace(0, len(values) - 1, min(CURVE_POINTS, len(values))).round().astype(int)
        curves.append(np.clip((values[positions] - low) * scale, 0, 99).round().astype(int).tolist())
    tasks = list(dict.fromkeys(task_names.values()))
    ends = None if table is None else [float(frame_edges(table, number)[-1]) for number in episodes.index]
    return {
        "ids": [int(number) for number in episodes.index],
        "frames": episodes.frames.astype(int).tolist(),
        "seconds": None if ends is None else [round(end, 1) for end in ends],
        "weights": episodes.weight.round(3).tolist(),
        "scores": episodes.score.round(3).tolist(),
        "reasons": reasons,
        "reason": "failed element" if findings is None else "fault or note",
        "faults": episodes.fault.tolist() if (episodes.fault != "").any() else None,
        "tasks": tasks,
        "task": [tasks.index(task_names[number]) for number in episodes.task_index.tolist()],
        "curves": curves,
        "bounds": [low, high],
        "threshold": round((low + high) / 2, 3),
        "dropped": [int(number) for number in episodes.index[episodes.flagged]],
        "command": command,
    }


def delete_command(dataset: str | None, shown: str | None = None) -> tuple[str, str]:
    """
    The parts before and after the list of episodes in the command that copies a dataset without these episodes.

    It is `lerobot-edit-dataset`, and `hf-ptr convert` for a folder in the layout v2.1, which the former cannot read.

    Args:
        dataset: the path or repo id of the dataset; None if it is not known.
        shown: its name in the command, if that is another.
    """
    old = dataset is not None and has_v21_files(Path(dataset))
    source = (shown or dataset or "DATASET").rstrip("/")
    name = source.partition("@")[0]
    if not old and parse_hub_repo(source) is not None:
        where = {"repo_id": name, "new_repo_id": f"{name}_kept"}
    else:
        if old:
            # LeRobot reads even times with any decoder; where they are even already, the option changes nothing.
            words = conversion_command(source, "_kept", "--even-times", "--skip-episodes")
            return f'{shlex.join(words)} "', '"'
        copy = copy_of(source, "_kept")
        where = {
            "repo_id": copy.name.removesuffix("_kept"),
            "root": source,
            "new_repo_id": copy.name,
            "new_root": str(copy),
        }
    options = " ".join(f"--{option} {shlex.quote(value)}" for option, value in where.items())
    before = f"lerobot-edit-dataset {options} --operation.type delete_episodes"
    return f'{before} --operation.episode_indices "[', ']"'
