"""Image encoders of the label-free score: what each costs, and which wrong images it tells from the right ones.

    python -m benchmarks.image_encoder NAME=PATH [NAME=PATH ...]   # rerun to resume
    python -m benchmarks.image_encoder --page                      # write the results into docs/calibrated.md

Each dataset gives `--episodes` episodes of its first camera. Images are encoded `--per-second` times a second and
vectors between them interpolated, for every encoder alike, so that the comparison takes minutes. Heads are
cross-fitted on the images as they are; then the images of each held-out episode are replaced by wrong ones, and the
episode is scored again by the same heads. `auroc` is the probability that an episode as it is has a higher
identification score, the mean of the sum over the checks in nats, than another one with wrong images; mean over the
seeds of the fit, with a 95 % interval over the episodes (bootstrap).

`cpu_seconds` are those of one process for 1,000 consecutive images, summed over its threads: waiting for a busy
machine does not count. `decode_rate` is the rate of decoding and encoding together in that of decoding alone. Results
in `benchmarks/results/image_encoder.json`.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import inspect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from benchmarks.measurement import ROOT, command_parser, machine, results_file, run, summary, write_results
from benchmarks.pages import fill_page, markdown_table
from hf_ptr.data.chunks import CameraImages, ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError
from hf_ptr.scoring.calibration import consistent_margin
from hf_ptr.scoring.config import ACTION_SHIFT, ScoreConfig, frames_at
from hf_ptr.scoring.cross_fitting import FittedFold, FoldContext, assign_folds, score_round, score_rows
from hf_ptr.scoring.frame_encoder import FrameEncoder
from hf_ptr.scoring.image_features import PIXELS_SIDE, principal_projection
from hf_ptr.scoring.transitions import Features, LazyTransitions, lazy_transitions
from hf_ptr.utils.progress import progress_bar
from hf_ptr.utils.safetensors_io import PartCache

PAGE = ROOT / "docs" / "calibrated.md"
# Images of a timed block, and blocks; pixels and encoders take turns.
TIMED, BLOCKS = 32, 5
RESAMPLES = 1000
# Frames by which images are late, and the part of the episode in which they stand still.
LATE, FROZEN = 6, (0.3, 0.7)
# Standard deviation of the blur, in widths of the image.
BLUR = 0.01
Encode = Callable[[Tensor], Tensor]
WRONG = ("another episode", f"late {LATE}", "exchanged cameras", "blurred", "frozen")


class Encoder:
    """
    The pixels of small images, or a vision model.

    Args:
        name: in the results.
        model: as `ScoreConfig.vision_model`.
        side: side of its images in pixels.
    """

    def __init__(self, name: str, model: str | None, side: int | None):
        self.name = name
        self._model = None if model is None else FrameEncoder(model, side, "cpu")
        self.size = (PIXELS_SIDE, PIXELS_SIDE) if self._model is None else self._model.size
        self.digest = "" if self._model is None else self._model.digest

    def __call__(self, images: Tensor) -> Tensor:
        """Images `(N, *size, 3)` uint8 to vectors `(N, d)`."""
        return images.flatten(1).half() if self._model is None else self._model(images)


def encoders(small: bool, folder: Path) -> list[Encoder]:
    """The pixels, and EfficientNet-Lite0 at two sizes; in the small form a random model."""
    if not small:
        lite0 = "efficientnet-lite0"
        return [Encoder("pixels", None, None), Encoder("Lite0, 96", lite0, 96), Encoder("Lite0, 224", lite0, 224)]
    from transformers import AutoModel, ResNetConfig

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(folder)
    return [Encoder("pixels", None, None), Encoder("random, 32", str(folder), 32)]


def cpu_seconds(table: EpisodeTable, camera: str, each: Sequence[Encoder], blocks: int) -> dict[str, Any]:
    """CPU seconds for 1,000 images: of decoding alone, and by encoder of decoding at its size and of encoding."""
    count = min(TIMED, table.num_frames // blocks)
    found: dict[str, dict[str, list[float]]] = {one.name: {"decode": [], "encode": []} for one in each}
    for block in range(blocks):
        rows = torch.arange(count) + block * (table.num_frames - count) // max(blocks - 1, 1)
        for one in each:
            images = CameraImages(table, [camera], one.size, cache_bytes=0)
            images[rows[:1]]
            begin = time.process_time()
            read = images[rows][:, 0]
            middle = time.process_time()
            one(read)
            found[one.name]["decode"].append(1000 * (middle - begin) / count)
            found[one.name]["encode"].append(1000 * (time.process_time() - middle) / count)
    alone = found[each[0].name]["decode"]
    return {
        name: {
            **{f"{part}_cpu_seconds": summary(values) for part, values in parts.items()},
            "decode_rate": summary(
                [a / (d + e) for a, d, e in zip(alone, parts["decode"], parts["encode"], strict=True)]
            ),
        }
        for name, parts in found.items()
    }


def vectors_of(table: EpisodeTable, camera: str, one: Encoder, per_second: float, keep: Path) -> dict[str, Tensor]:
    """
    The vectors `(F, d)` float32 of the images as they are, of a second view (a mirrored cut of the lower right
    quarter) and of blurred images.
    """
    stride = max(1, round(table.fps / per_second))
    made_of = {
        "stride": stride,
        "clips": repr([table.videos[camera][int(episode)] for episode in table.episode_index]),
        "encoder": one.digest,
        "source": inspect.getsource(_episode_vectors),
    }
    parts = PartCache(keep, made_of)
    found: dict[str, list[Tensor]] = {}
    with progress_bar() as bar:
        for position in bar.track(range(table.num_episodes), description=f"{one.name}, {table.source}"):
            part = parts.load(f"episode-{position}")
            if part is None:
                part = _episode_vectors(table, camera, one, position, stride)
                parts.save(f"episode-{position}", part)
            for view, vectors in part.items():
                whole = _interpolated(vectors.float(), stride, int(table.lengths[position]))
                found.setdefault(view, []).append(whole)
    return {view: torch.cat(rows) for view, rows in found.items()}


def _episode_vectors(table: EpisodeTable, camera: str, one: Encoder, position: int, stride: int) -> dict[str, Tensor]:
    first, length = int(table.starts[position]), int(table.lengths[position])
    wanted = [*range(0, length - 1, stride), length - 1]
    reader = FrameReader(camera, table.videos[camera], table.video_fps, cache_bytes=0)
    frames = table.video_frame[[first + frame for frame in wanted]]
    views: dict[str, list[np.ndarray]] = {"as it is": [], "second view": [], "blurred": []}
    for image in reader.read([int(table.episode_index[position])] * len(wanted), frames.tolist()):
        whole = Image.fromarray(image)
        width, height = whole.size
        cut = whole.crop((width // 2, height // 2, width, height)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        blurred = whole.filter(ImageFilter.GaussianBlur(BLUR * width))
        for view, shown in zip(views, (whole, cut, blurred), strict=True):
            views[view].append(np.asarray(shown.resize(one.size[::-1], Image.Resampling.BOX)))
    return {view: one(torch.from_numpy(np.stack(images))) for view, images in views.items()}


def _interpolated(vectors: Tensor, stride: int, length: int) -> Tensor:
    """The vectors of all frames of an episode from those of every `stride`-th and of the last: `(length, d)`."""
    known = torch.tensor([*range(0, length - 1, stride), length - 1])
    frame = torch.arange(length)
    after = torch.searchsorted(known, frame).clamp(min=1, max=max(len(known) - 1, 0))
    before = (after - 1).clamp(min=0)
    share = ((frame - known[before]) / (known[after] - known[before]).clamp(min=1))[:, None]
    return vectors[before] * (1 - share) + vectors[after] * share


def wrong_images(table: EpisodeTable, views: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vectors of every row by what is wrong with the images of all episodes: `(F, d)` each."""
    right, frame = views["as it is"], torch.arange(table.num_frames)
    starts, lengths = torch.from_numpy(table.starts), torch.from_numpy(table.lengths)
    episode = torch.arange(table.num_episodes).repeat_interleave(lengths)
    begin, inside = starts[episode], frame - starts[episode]
    donor = (episode + table.num_episodes // 2) % table.num_episodes
    still = [(share * lengths[episode]).long() for share in FROZEN]
    held = torch.where((inside >= still[0]) & (inside < still[1]), still[0], inside)
    return {
        "another episode": right[starts[donor] + inside.minimum(lengths[donor] - 1)],
        f"late {LATE}": right[begin + (inside - LATE).clamp(min=0)],
        "exchanged cameras": views["second view"],
        "blurred": views["blurred"],
        "frozen": right[begin + held],
    }


def identification(
    chunks: ChunkDataset, views: dict[str, Tensor], config: ScoreConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The identification score of each episode as it is, `(E,)` nats, and with each kind of wrong images."""
    mean, projection = principal_projection([views["as it is"]], config.image_components)
    transitions = lazy_transitions(chunks, config, (views["as it is"] - mean) @ projection)
    generator = torch.Generator().manual_seed(config.seed)
    folds = min(config.folds, chunks.table.num_episodes // 2)
    fold = assign_folds(chunks.table.episode_index, folds)
    rows = torch.arange(len(transitions))
    steps = config.training_steps(len(rows) * (folds - 1) // folds)
    tasks = len(chunks.table.tasks)
    context = FoldContext(transitions, config, steps, tasks, generator, torch.device("cpu"), lambda _: None)
    weight = torch.ones(chunks.table.num_episodes)
    _, fitted = score_round(context, rows, fold, weight, parts=PartCache(None, {}), name="round")
    right = _episode_scores(context, transitions, fold, fitted)
    wrong = {}
    for kind, vectors in wrong_images(chunks.table, views).items():
        images = Features([((vectors - mean) @ projection).numpy()], config.feature_limit)
        changed = replace(transitions, observations=(images, *transitions.observations[1:]))
        wrong[kind] = _episode_scores(context, changed, fold, fitted)
    return right, wrong


def _episode_scores(
    context: FoldContext, transitions: LazyTransitions, fold: Tensor, fitted: dict[int, FittedFold]
) -> Tensor:
    """Each episode's mean of the sum over the checks, `(E,)` nats, by the heads that have not seen the episode."""
    total, episodes = torch.zeros(len(transitions.count)), len(transitions.count)
    for number, one in fitted.items():
        row = torch.nonzero(fold[transitions.episode] == number).squeeze(1)
        # The candidates have the right images.
        pool = context.transitions.take(one.pool)
        found = score_rows(context, one.restored(context), transitions, row, pool, one.known)
        episode = transitions.episode[row]
        found[ACTION_SHIFT], _ = consistent_margin(found[ACTION_SHIFT], episode, episodes, context.config)
        score = torch.stack(list(found.values())).nan_to_num(0.0).sum(dim=0)
        total.index_add_(0, episode, score)
    return total / transitions.count


def auroc_with_interval(right: np.ndarray, wrong: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """
    Mean AUROC of the seeds, and its 95 % interval over the episodes.

    Args:
        right, wrong: `(seeds, E)`, scores of the same episodes.
        seed: of the resampling.
    """

    # Whether each episode as it is scores above each with wrong images.
    above = np.mean([(a[:, None] > b) + (a[:, None] == b) / 2 for a, b in zip(right, wrong, strict=True)], axis=0)
    # Resampling would count the pairs of an episode with itself twice as often.
    np.fill_diagonal(above, np.nan)
    rng, episodes = np.random.default_rng(seed), right.shape[1]
    drawn = [
        np.nanmean(above[np.ix_(chosen, chosen)]) for chosen in rng.integers(episodes, size=(RESAMPLES, episodes))
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"mean": float(np.nanmean(above)), "interval": [float(low), float(high)]}


def auroc_by_kind(
    table: EpisodeTable, camera: str, one: Encoder, keep: Path, sizes: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """AUROC of an encoder in a dataset, by what is wrong with the images."""
    vectors = vectors_of(table, camera, one, sizes.per_second, keep)
    frames = frames_at(table.fps, 16)
    chunks = ChunkDataset(table, chunk_size=frames, target_offset=frames, observation_features=[camera])
    rights, wrongs = [], []
    for seed in range(sizes.seeds):
        config = ScoreConfig(seed=seed, **({"steps": 5, "max_steps": 5} if sizes.small else {})).at_rate(table.fps)
        right, wrong = identification(chunks, vectors, config)
        rights.append(right.numpy())
        wrongs.append({kind: score.numpy() for kind, score in wrong.items()})
    return {kind: auroc_with_interval(np.stack(rights), np.stack([each[kind] for each in wrongs])) for kind in WRONG}


def read_episodes(path: str, most: int) -> tuple[EpisodeTable, str]:
    """Episodes from the whole of a dataset, and its first camera."""
    table = read_dataset(path)
    if not table.videos:
        raise InputError(f"dataset {path!r} has no camera; name one with images")
    kept = np.unique(np.linspace(0, table.num_episodes - 1, min(most, table.num_episodes)).round().astype(int))
    return table.select(table.episode_index[kept].tolist()), next(iter(table.videos))


def table_of(result: dict[str, Any]) -> str:
    """The results as a table in Markdown; without the AUROC until it is measured for every encoder."""
    every = [found for data in result["datasets"].values() for found in data["encoders"].values()]
    kinds = WRONG if all("auroc" in found for found in every) else ()
    rows: list[list[str]] = [["data", "encoder", "decoding, CPU s", "encoding, CPU s", "decode rate kept", *kinds]]
    for name, data in result["datasets"].items():
        for encoder, found in data["encoders"].items():
            costs = [f"{found[f'{part}_cpu_seconds']['median']:.2f}" for part in ("decode", "encode")]
            kept = f"{100 * found['decode_rate']['median']:.0f} %"
            rows.append(
                [f"`{name}`", encoder, *costs, kept, *(_with_interval(found["auroc"][kind]) for kind in kinds)]
            )
    return markdown_table(rows)


def _with_interval(value: dict[str, Any]) -> str:
    low, high = value["interval"]
    return f"{value['mean']:.2f} [{low:.2f}, {high:.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_parser("image_encoder", __doc__)
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of each dataset")
    parser.add_argument("--per-second", type=float, default=5.0, help="encoded images per second")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the fit, from 0")
    parser.add_argument("--page", action="store_true", help="write the recorded results into the docs")
    options = parser.parse_args(arguments)
    file = results_file("image_encoder", options.small)
    if not options.page:
        named = dict(text.partition("=")[::2] for text in options.datasets)
        if not named or not all(named.values()):
            raise InputError("name the datasets, each as NAME=PATH")
        keep = file.parent / "image_encoder" if options.small else ROOT / "runs" / "image_encoder"
        each = encoders(options.small, keep / "model")
        read = {name: read_episodes(path, options.episodes) for name, path in named.items()}
        result: dict[str, Any] = {"machine": machine(), "per_second": options.per_second, "seeds": options.seeds}
        result["datasets"] = {
            name: {
                "episodes": table.num_episodes,
                "frames": table.num_frames,
                "fps": table.fps,
                "encoders": cpu_seconds(table, camera, each, 2 if options.small else BLOCKS),
            }
            for name, (table, camera) in read.items()
        }
        # The slowest encoder last; what is finished is written.
        for one in each:
            for name, (table, camera) in read.items():
                found = auroc_by_kind(table, camera, one, keep / f"{name}-{one.name}", options)
                result["datasets"][name]["encoders"][one.name]["auroc"] = found
                write_results(result, file)
    result = json.loads(file.read_text(encoding="utf-8"))
    print(table_of(result))
    if options.page:
        fill_page(PAGE, {"image_encoder": table_of(result)})


if __name__ == "__main__":
    run("benchmarks.image_encoder", main)
