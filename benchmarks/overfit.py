"""Overfitting: can each policy memorise a few real chunks from images, and reproduce their actions?

    python -m benchmarks.overfit DATASET [--camera NAME] [--chunks 8] [--steps 1600]

A tiny native policy with each head and a tiny PI0, both with random weights, are trained with the full objective of
PTR (scorer, belief tokens) on the same chunks of a LeRobotDataset with a camera. The action loss must fall by a factor
of ten. The sampled actions are compared with the recorded ones.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PI0Config, PI0ForConditionalGeneration, PreTrainedTokenizerFast, set_seed

from benchmarks.measurement import command_parser, results_file, run
from hf_ptr import PTRConfig, PTRTrainer
from hf_ptr.data import ChunkDataset, read_dataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.policies import adapter_of, policy_from_dataset
from hf_ptr.policies.action_queue import belief_lag
from hf_ptr.policies.pi0 import PI0TextProcessor
from hf_ptr.training.dataloaders import ChunkCollator
from hf_ptr.utils.atomic_files import write_json

ACTING = ("observation", "state", "instruction_ids", "instruction_mask")
HEADS = ("flow", "diffusion", "tokens")


def native(head: str) -> Callable[[EpisodeTable, str], tuple[Any, Any]]:
    """A function that makes a tiny native policy with this action head."""

    def make(table: EpisodeTable, camera: str) -> tuple[Any, Any]:
        return policy_from_dataset(
            table,
            observation_features=[camera],
            size="tiny",
            image_size=64,
            action_head=head,
            num_denoising_steps=10,
        )

    return make


def pi0(table: EpisodeTable, camera: str) -> tuple[Any, Any]:
    """A tiny PI0 with random weights, and a tokenizer for the words of the dataset's instructions."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16}
    words = sorted({word for task in table.tasks for word in task.split()})
    vocabulary = {word: number for number, word in enumerate(("<pad>", "<bos>", "<unk>", *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    layers = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    wide = table.feature("action").shape[1]
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {"model_type": "gemma", "vocab_size": len(vocabulary) + 1, **layers, **heads},
            "vision_config": {
                "model_type": "siglip_vision_model",
                "num_attention_heads": 4,
                "patch_size": 16,
                "image_size": 64,
                "vision_use_head": False,
                **layers,
            },
            "projection_dim": 64,
            "image_token_id": len(vocabulary),
        },
        dit_config={"model_type": "gemma", **layers, **heads, "hidden_size": 128, "intermediate_size": 256},
        chunk_size=16,
        max_state_dim=max(32, wide),
        max_action_dim=max(32, wide),
        loss_reduction="none",
    )
    model = PI0ForConditionalGeneration(config)
    adapter_of(model).fit_to(table, observation_features=[camera], n_action_steps=8)
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return model, PI0TextProcessor(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))


POLICIES: dict[str, Callable[[EpisodeTable, str], tuple[Any, Any]]] = {
    "PI0": pi0,
    **{f"VLAPolicy, {head}": native(head) for head in HEADS},
}
# Share of the steps: a step over 416 tokens takes ten times as long, and cross-entropy has no sampling noise.
SHARE = {"VLAPolicy, tokens": 0.25}


def overfit(
    name: str, table: EpisodeTable, camera: str, chunks: int, steps: int, seed: int, folder: str
) -> dict[str, float]:
    """Losses before and after, and the error of sampled actions in standard deviations of the recorded ones."""
    set_seed(seed)
    steps = round(steps * SHARE.get(name, 1.0))
    policy, processor = POLICIES[name](table, camera)
    args = PTRConfig(
        output_dir=folder,
        use_cpu=True,
        belief_tokens=4,
        nce_warmup_steps=50,
        queue_size=64,
        seed=seed,
        disable_tqdm=True,
        report_to="none",
    )
    # Without a dataset: the batch is given to the loss directly, and negatives come from the batch alone.
    trainer = PTRTrainer(policy, args, data_collator=lambda given: given)
    model = trainer.model
    config = model.adapter.config
    dataset = ChunkDataset(
        table,
        chunk_size=config.chunk_size,
        chunk_stride=belief_lag(config) * config.n_action_steps,
        observation_features=[camera],
        image_size=config.image_resolution,
    )
    rows = np.linspace(0, table.lengths[0] - 2 * config.chunk_size, chunks).astype(int)
    batch = ChunkCollator(processor, dataset.tasks)(dataset.__getitems__(rows.tolist()))
    # Every chunk starts from the initial belief tokens.
    batch["previous_index"] = torch.full_like(batch["previous_index"], -1)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in track(range(steps), name):
        trainer.state.global_step = step
        loss, output = trainer.compute_loss(model, dict(batch), return_outputs=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        model.update_target()
        losses.append(float(output.action_loss.detach().mean()))
    model.eval()
    model.adapter.reset()
    chunk = model.adapter.predict_action_chunk(
        {key: batch[key] for key in ACTING}, generator=torch.Generator().manual_seed(seed)
    )
    spread = table.feature(config.action_feature).std(axis=0)
    error = ((chunk - batch["actions"]).numpy() / np.where(spread > 1e-4, spread, 1.0)) ** 2
    still = ((batch["actions"].mean(dim=0) - batch["actions"]).numpy() / np.where(spread > 1e-4, spread, 1.0)) ** 2
    first, last = float(np.mean(losses[:5])), float(np.mean(losses[-20:]))
    return {
        "loss_before": first,
        "loss_after": last,
        "loss_ratio": first / last,
        "action_error": float(np.sqrt(error.mean())),
        "action_error_of_their_mean": float(np.sqrt(still.mean())),
        "parameters": sum(value.numel() for value in policy.parameters()),
    }


def main() -> None:
    parser = command_parser("overfit", __doc__)
    parser.add_argument("dataset", help="folder of a LeRobotDataset with a camera")
    parser.add_argument("--camera", help="name of the camera; by default the first")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.small:
        options.chunks, options.steps = 2, 4
    table = read_dataset(options.dataset, episodes=[0, 1])
    if table.lengths[0] < 48:
        raise InputError(f"episode 0 of {options.dataset} has {table.lengths[0]} frames; it needs at least 48")
    cameras = sorted(table.videos)
    if not cameras:
        raise InputError(f"{options.dataset} has no camera; record the dataset with one")
    camera = options.camera or cameras[0]
    shown = Table(
        title=f"{options.chunks} chunks of {table.source}, {camera}, {options.steps} steps, seed {options.seed}"
    )
    for column in ("policy", "loss before", "after", "factor", "action error", "error of the mean"):
        shown.add_column(column, justify="left" if column == "policy" else "right")
    found: dict[str, dict[str, float]] = {}
    settings = {"dataset": table.source, "camera": camera, "chunks": options.chunks, "steps": options.steps}
    file = results_file("overfit", options.small)
    for name in POLICIES:
        with tempfile.TemporaryDirectory() as folder:
            given = (camera, options.chunks, options.steps, options.seed, folder)
            made = found[name] = overfit(name, table, *given)
        keys = ("loss_before", "loss_after", "loss_ratio", "action_error", "action_error_of_their_mean")
        shown.add_row(name, *(f"{made[key]:.3f}" for key in keys))
        # After each policy, since all of them take up to an hour on a busy machine.
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json({**settings, "seed": options.seed, "policies": found}, file)
    Console().print(shown)
    if options.small:
        return
    if short := [name for name, made in found.items() if made["loss_ratio"] < 10]:
        sys.exit(f"benchmarks.overfit: the loss of {', '.join(short)} did not fall tenfold")


if __name__ == "__main__":
    run("benchmarks.overfit", main)
