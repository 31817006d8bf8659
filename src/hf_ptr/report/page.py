"""The report: one HTML file that needs no network, of a run or a score file, or of two side by side."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from hf_ptr import __version__
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError
from hf_ptr.report import findings, plots
from hf_ptr.report.inputs import SCORE_PREFIX, ReportInput, require_rows_of
from hf_ptr.utils.atomic_files import write_text

WORST, BEST = 6, 3
# Frames of a film strip, and their height in pixels.
STRIP, STRIP_HEIGHT = 8, 120
MOST_CAMERAS = 3
# `user/name` or `user/name@revision`, which LeRobot has a copy of its own of.
ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")
# Points of the little curve of each episode in the table; a file of thousands of episodes has to stay small.
CURVE_POINTS = 40
BINS = 32
# What each logged metric says, in the order of the paper's figures.
CURVES = {
    "loss_action": ("action loss", "of the policy, with the weights in use"),
    "nce_acc": ("identification accuracy", "how often the observation that followed is picked from all candidates"),
    "ptr_score": (
        "PTR score T (nats)",
        "log posterior over the uniform one; 0 is no idea, log of the pool the most",
    ),
    "nce_margin": ("margin", "logit of the match minus that of the best mismatch"),
    "scorer_temperature": ("temperature τ", "moved by the controller within 0.03 to 0.20"),
    "beta": ("scale β", "moved by the controller within 0.5 to 3"),
    "hard_negative_ratio": ("hard-negative ratio", "share of look-alikes among the negatives, 0 to 0.5"),
    "ess": ("effective sample size / n", "1: all chunks count alike"),
    "belief_entropy": ("belief entropy H_tok", "falls as each belief token settles on a moment"),
    "weight_mean": ("mean weight", "near its upper bound with ess near 1: the weights change nothing"),
}


@dataclass(frozen=True)
class Card:
    """One of the worst or best episodes, as it is shown."""

    episode: int
    task: str
    weight: float
    score: float
    fault: str
    reasons: list[str]
    lines: Markup
    strips: list[tuple[str, list[tuple[str, str]]]]
    motion: Markup | None


def write_report(
    evidence: ReportInput,
    out: Path,
    *,
    table: EpisodeTable | None = None,
    dataset: str | None = None,
    compared: ReportInput | None = None,
) -> Path:
    """
    Writes the report.

    Args:
        evidence: of the run or score file.
        out: the HTML file.
        table: the episodes that were scored, for task names, seconds, film strips and plots; without it frames and
            numbers have to do.
        dataset: its folder, as the commands name it.
        compared: another run or score file, to stand beside it.

    Raises:
        InputError: the scores are of another dataset than the table.
    """
    if evidence.scores is None and not evidence.log:
        raise InputError(f"{evidence.name} has neither scores nor a log; there is nothing to report on")
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
    page = environment.get_template("report.html.jinja").render(
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        # Nothing may be loaded, and no script run but this one, whatever the data hold.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        **_contents(evidence, table, dataset, compared),
    )
    write_text(page, out)
    return out


def _contents(
    evidence: ReportInput, table: EpisodeTable | None, dataset: str | None, compared: ReportInput | None
) -> dict[str, Any]:
    both = [evidence, *([compared] if compared is not None else [])]
    contents: dict[str, Any] = {
        "name": evidence.name,
        "compared": None if compared is None else compared.name,
        "findings": findings.say_log(evidence),
        "caveats": findings.caveats(evidence),
        "curves": _curves(both),
        "histogram": _histogram(evidence),
        "made": {
            name: value
            for name, value in evidence.recipe.items()
            if isinstance(value, str | int | float | bool | list)
        },
        "side_by_side": _side_by_side(both) if compared is not None else [],
        "agreement": None,
        "tasks": [],
        "sources": [],
        "faults": [],
        "worst": [],
        "best": [],
        "episodes": None,
        "shift_bounds": None,
    }
    if evidence.scores is None:
        return contents
    scores = evidence.scores
    if table is not None:
        require_rows_of(scores, table)
    episodes = findings.summarise_episodes(evidence)
    task_names = _task_names(episodes, table)
    by_task = findings.shifts(scores, [task_names[number] for number in _column(scores, "task_index", 0)])
    by_source = findings.shifts(scores, _column(scores, "source", ""))
    contents["findings"] = [*findings.say_scores(evidence, episodes, by_task), *contents["findings"]]
    low, high = evidence.bounds
    contents["shift_bounds"] = (low / high, high / low) if low > 0 else None
    contents["tasks"], contents["sources"] = by_task, by_source
    contents["faults"] = findings.measure_known_faults(episodes)
    order = episodes.sort_values(["weight", "score"])
    worst = order.index[: min(WORST, (len(order) + 1) // 2)]
    best = order.index[::-1][: min(BEST, len(order) // 2)]
    contents["worst"] = [_card(number, episodes, evidence, table, task_names) for number in worst]
    contents["best"] = [_card(number, episodes, evidence, table, task_names) for number in best]
    contents["episodes"] = _rows(episodes, scores, task_names, evidence, table, dataset)
    if compared is not None and compared.scores is not None:
        other = findings.summarise_episodes(compared)
        shared = episodes.index.intersection(other.index)
        if len(shared):
            contents["agreement"] = _agreement(episodes.loc[shared], other.loc[shared])
    return contents


def _column(scores: pd.DataFrame, name: str, default: Any) -> list[Any]:
    return scores[name].tolist() if name in scores else [default] * len(scores)


def _task_names(episodes: pd.DataFrame, table: EpisodeTable | None) -> dict[int, str]:
    """The instruction of every task number, or its number where the dataset is not at hand."""
    known = () if table is None else table.tasks
    numbers = episodes.task_index.unique().tolist()
    return {n: known[n] if 0 <= n < len(known) else f"task {n}" for n in numbers}


def _curves(both: Sequence[ReportInput]) -> list[dict[str, Any]]:
    """The panels of the training dynamics for which there is something to draw."""
    panels = []
    for metric, (title, meaning) in CURVES.items():
        lines = [(name, findings.series(one.log, metric)) for name, one in zip("AB", both, strict=False)]
        if any(len(points) > 1 for _, points in lines):
            panels.append({"title": title, "meaning": meaning, "svg": Markup(plots.curve(lines, title))})
    return panels


def _histogram(evidence: ReportInput) -> dict[str, Any] | None:
    """Weights early and late: as the run logged them, or those of the score file, which stay as they are."""
    logged = evidence.histograms
    if logged:
        # The weights of the warm-up are 1 by definition.
        warm = [line for line in logged if line["step"] > evidence.settings.get("nce_warmup_steps", 0)] or logged
        early, late = ((np.array(line["edges"]), np.array(line["counts"])) for line in (warm[0], warm[-1]))
        words = f"Early: the batches up to step {warm[0]['step']}. Late: up to step {warm[-1]['step']}."
        return {"svg": Markup(plots.weight_histogram(late, early, evidence.bounds)), "words": words}
    if evidence.scores is None:
        return None
    low, high = evidence.bounds
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    counts, _ = np.histogram(evidence.scores.weight, edges)
    words = "The weights of a score file are the same from the first step to the last."
    return {"svg": Markup(plots.weight_histogram((edges, counts), None, evidence.bounds)), "words": words}


def _card(
    number: int, episodes: pd.DataFrame, evidence: ReportInput, table: EpisodeTable | None, task_names: dict[int, str]
) -> Card:
    scores = evidence.scores
    assert scores is not None
    row, mine = episodes.loc[number], scores[scores.episode_index == number]
    fps = 1.0 if table is None else table.fps
    unit = "frame" if table is None else "seconds"
    views = {name: mine[name].to_numpy() for name in mine if name.startswith(SCORE_PREFIX)}
    lines = plots.episode_lines(
        mine.weight.to_numpy(), views, mine.frame_index.to_numpy() / fps, evidence.bounds, unit
    )
    strips = [] if table is None else _strips(table, int(number), int(mine.frame_index.max()) + 1)
    motion = None
    if table is not None and not strips:
        features = [name for name in ("observation.state", "action") if name in table.columns]
        position = int(np.flatnonzero(table.episode_index == number)[0])
        if features:
            motion = Markup(plots.state_and_action(table, position, features, unit))
    return Card(
        episode=int(number),
        task=task_names[int(row.task_index)],
        weight=float(row.weight),
        score=float(row.score),
        fault=str(row.fault),
        reasons=_reasons(row, mine, fps, table is not None),
        lines=Markup(lines),
        strips=strips,
        motion=motion,
    )


def _reasons(row: pd.Series, mine: pd.DataFrame, fps: float, in_seconds: bool) -> list[str]:
    """Why an episode has its weight, in words."""
    said = []
    if row.flagged and row.failed:
        said.append(f"View “{row.failed}” fails: {findings.ELEMENT_FAILS.get(row.failed, 'it does not fit')}.")
        confused = findings.likely_cause(row.check, int(row.estimated_lag))
        if confused:
            said.append(f"Nearest alternative: {confused}.")
    elif row.failed:
        share = float((mine.failed_element != "").mean())
        said.append(f"Fits as a whole; in {share:.0%} of its chunks the view “{row.failed}” does not.")
    elif row.flagged:
        said.append("Low weight, and the score file does not say which view failed.")
    else:
        said.append("Nothing fails.")
    for name in mine:
        if name.startswith(SCORE_PREFIX) and np.isfinite(row[name]):
            said.append(
                f"{name.removeprefix(SCORE_PREFIX)}: score {row[name]:.2f} (0 as a faulty episode, 1 as a good one)."
            )
    lowest = mine.loc[mine.weight.idxmin()]
    if mine.weight.max() - mine.weight.min() > 0.05:
        when = f"{lowest.frame_index / fps:.1f} s" if in_seconds else f"frame {lowest.frame_index}"
        said.append(f"Its least chunk starts at {when} (weight {lowest.weight:.2f}).")
    return said


def _strips(table: EpisodeTable, episode: int, frames: int) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each camera that has the episode, frames along it as `(time, data URI)`."""
    found = []
    for camera, clips in list(table.videos.items())[:MOST_CAMERAS]:
        if episode not in clips:
            continue
        shape = table.features.get(camera, {}).get("shape") or [STRIP_HEIGHT * 3, STRIP_HEIGHT * 4, 3]
        names = table.features.get(camera, {}).get("names")
        height, width = _height_and_width(shape, names)
        size = (STRIP_HEIGHT, max(1, round(STRIP_HEIGHT * width / height)))
        last = min(frames, clips[episode].frames) - 1
        wanted = sorted({int(frame) for frame in np.linspace(0, last, STRIP).round()})
        reader = FrameReader(camera, {episode: clips[episode]}, table.fps, size=size)
        shown = reader.read([episode] * len(wanted), wanted)
        found.append(
            (
                camera,
                [
                    (f"{frame / table.fps:.1f} s", plots.jpeg(picture))
                    for frame, picture in zip(wanted, shown, strict=True)
                ],
            )
        )
    return found


def _height_and_width(shape: Sequence[int], names: Any) -> tuple[int, int]:
    """Of a camera's frames: datasets give the shape with the channels first or last, and name which."""
    if isinstance(names, list) and {"height", "width"} <= set(names):
        return int(shape[names.index("height")]), int(shape[names.index("width")])
    sides = [int(side) for side in (shape[1:] if shape[0] in (1, 3) else shape[:2])]
    return sides[0], sides[1]


def _rows(
    episodes: pd.DataFrame,
    scores: pd.DataFrame,
    task_names: dict[int, str],
    evidence: ReportInput,
    table: EpisodeTable | None,
    dataset: str | None,
) -> dict[str, Any]:
    """What the page's own script shows of every episode: columns, with the weights along it as small integers."""
    low, high = evidence.bounds
    scale = 99.0 / (high - low) if high > low else 0.0
    curves = []
    for _, weights in scores.groupby("episode_index", sort=True).weight:
        values = weights.to_numpy()
        places = np.linspace(0, len(values) - 1, min(CURVE_POINTS, len(values))).round().astype(int)
        curves.append(np.clip((values[places] - low) * scale, 0, 99).round().astype(int).tolist())
    tasks = list(dict.fromkeys(task_names.values()))
    return {
        "ids": [int(number) for number in episodes.index],
        "frames": episodes.frames.astype(int).tolist(),
        "fps": None if table is None else table.fps,
        "weights": episodes.weight.round(3).tolist(),
        "scores": episodes.score.round(3).tolist(),
        "failed": episodes.failed.tolist(),
        "faults": episodes.fault.tolist() if (episodes.fault != "").any() else None,
        "tasks": tasks,
        "task": [tasks.index(task_names[number]) for number in episodes.task_index.tolist()],
        "curves": curves,
        "bounds": [low, high],
        "threshold": round(findings.flag_threshold(evidence), 3),
        "dropped": [int(number) for number in episodes.index[episodes.flagged]],
        "command": delete_command(dataset),
    }


def _side_by_side(both: Sequence[ReportInput]) -> list[tuple[str, str, str]]:
    """The figures of both, a row each; "–" where one does not have it."""
    rows: list[tuple[str, list[str]]] = []
    scored = [None if one.scores is None else one.scores.weight.to_numpy() for one in both]
    rows.append(("mean weight", ["–" if w is None else f"{w.mean():.2f}" for w in scored]))
    rows.append(
        ("effective sample size / n", ["–" if w is None else f"{findings.sample_share(w):.2f}" for w in scored])
    )
    flagged = [None if one.scores is None else int(findings.summarise_episodes(one).flagged.sum()) for one in both]
    rows.append(("flagged episodes", ["–" if number is None else str(number) for number in flagged]))
    for metric, (title, _) in CURVES.items():
        ends = [findings.series(one.log, metric) for one in both]
        if any(ends):
            rows.append((f"{title}, at the end", [f"{points[-1][1]:.3g}" if points else "–" for points in ends]))
    changed = sorted(
        key
        for key in {*both[0].recipe, *both[1].recipe} - {"output_dir"}
        if both[0].recipe.get(key) != both[1].recipe.get(key)
    )
    for key in changed:
        rows.append((str(key), [str(one.recipe.get(key, "–")) for one in both]))
    return [(title, values[0], values[1]) for title, values in rows if values != ["–", "–"]]


def _agreement(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """The mean weights of the same episodes by both, and those on which they differ most."""
    gap = (second.weight - first.weight).abs().sort_values(ascending=False)
    rows = [
        (int(number), f"{first.weight[number]:.2f}", f"{second.weight[number]:.2f}")
        for number in gap.index[:8]
        if gap[number] > 0.01
    ]
    svg = plots.agreement(first.weight.to_numpy(), second.weight.to_numpy(), ("A", "B"))
    return {"svg": Markup(svg), "rows": rows}


def delete_command(dataset: str | None) -> tuple[str, str]:
    """What stands before and after the list of episodes in the command that leaves them out of a copy."""
    place = (dataset or "DATASET").rstrip("/")
    name = place.partition("@")[0]
    if ON_HUB.fullmatch(place) and not Path(place).exists():
        where = {"repo_id": name, "new_repo_id": f"{name}_kept"}
    else:
        name = Path(place).name
        where = {"repo_id": name, "root": place, "new_repo_id": f"{name}_kept", "new_root": f"{place}_kept"}
    options = " ".join(f"--{option} {shlex.quote(value)}" for option, value in where.items())
    before = f"lerobot-edit-dataset {options} --operation.type delete_episodes"
    return f'{before} --operation.episode_indices "[', ']"'
