"""PTRTrainer on real simulated data: the arms, resuming, logs and saved files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import saved_text_encoder
from trainer_helpers import BELIEF, CHECKPOINTING, OBSERVATION, SFT, history, make
from transformers import AutoModel, AutoProcessor, Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_ptr import BeliefTokenizer, PTRConfig, PTRModel, PTRTrainer, TransitionScorer, VLAPolicy
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.errors import InputError
from hf_ptr.policies import policy_from_dataset
from hf_ptr.training.build_model import as_ptr_model
from hf_ptr.training.checkpointing import last_complete_checkpoint
from hf_ptr.training.dataloaders import ChunkCollator
from hf_ptr.training.micro_batches import MODEL_INPUTS

METRICS = [
    "nce_acc",
    "nce_margin",
    "ptr_score",
    "weight_mean",
    "weight_std",
    "weight_clip_low",
    "weight_clip_high",
    "ess",
    "valid_ratio",
    "scorer_temperature",
    "beta",
    "hard_negative_ratio",
    "belief_entropy",
    "loss_action",
    "loss_id",
    "loss_rank",
    "loss_tok",
]


def test_sft_equals_the_plain_trainer_step_by_step(metaworld_dataset: Path, tmp_path: Path) -> None:
    ours = make(metaworld_dataset, tmp_path / "ours", max_steps=20, **SFT)
    theirs = make(metaworld_dataset, tmp_path / "unused", max_steps=20, **SFT)
    collator = ChunkCollator(theirs.processing_class, theirs.train_dataset.tasks)
    names = [name for name in MODEL_INPUTS if name != "next_observation"]
    plain = Trainer(
        theirs.model.policy,
        TrainingArguments(
            output_dir=str(tmp_path / "plain"),
            max_steps=20,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            weight_decay=0.01,
            warmup_steps=2,
            lr_scheduler_type="cosine",
            logging_steps=1,
            save_strategy="no",
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=theirs.train_dataset,
        data_collator=lambda chunks: {"batch": {n: value for n, value in collator(chunks).items() if n in names}},
    )
    set_seed(0)
    ours.train()
    set_seed(0)
    plain.train()
    assert len(history(ours, "loss")) == 20
    assert history(ours, "loss") == pytest.approx(history(plain, "loss"), abs=1e-6)
    for mine, other in zip(ours.model.policy.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_every_metric_is_logged_and_finite(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path)
    trainer.train()
    for name in METRICS:
        values = history(trainer, name)
        assert len(values) == 6 and all(map(torch.isfinite, map(torch.tensor, values))), name
    assert history(trainer, "weight_std")[:2] == [0.0, 0.0]
    assert history(trainer, "weight_mean")[:2] == [1.0, 1.0]
    assert history(trainer, "weight_mean")[3] != 1.0
    assert all(0.25 <= mean <= 4.0 for mean in history(trainer, "weight_mean"))
    scales = {"action": 1.0, "id": trainer.args.lambda_id, "rank": trainer.args.lambda_rank, "tok": 1.0}
    parts = [[scale * value for value in history(trainer, f"loss_{name}")] for name, scale in scales.items()]
    total = [sum(step) for step in zip(*parts, strict=True)]
    assert history(trainer, "loss") == pytest.approx(total, abs=1e-5)


def test_arms_have_only_the_parts_they_use(metaworld_dataset: Path, tmp_path: Path) -> None:
    parts = {
        arm: make(metaworld_dataset, tmp_path / arm, **settings).model
        for arm, settings in {
            "sft": SFT,
            "belief": BELIEF,
            "ptr": {},
            "ablation": {"alpha": 0, "use_scorer": True},
        }.items()
    }
    assert {arm: (m.scorer is not None, m.belief_tokenizer is not None) for arm, m in parts.items()} == {
        "sft": (False, False),
        "belief": (False, True),
        "ptr": (True, True),
        "ablation": (True, True),
    }


def test_belief_tokens_are_carried_along_segments(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path, per_device_train_batch_size=16, **BELIEF)
    found: list[tuple[bool, bool]] = []
    forward = trainer.model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        if kwargs["carried"] is not None:
            found.extend(zip((previous[0] >= 0).tolist(), kwargs["carried"].tolist(), strict=True))
        return forward(*args, **kwargs)

    previous: list[torch.Tensor] = []
    compute = trainer.compute_loss

    def remember(model: Any, inputs: Any, **kwargs: Any) -> Any:
        previous[:] = [inputs["previous_index"]]
        return compute(model, inputs, **kwargs)

    trainer.model.forward = spy
    trainer.compute_loss = remember
    trainer.train()
    # Within an epoch every chunk that has a predecessor finds its tokens.
    assert sum(has for has, _ in found) > 30
    assert all(has == carried for has, carried in found)


@pytest.mark.parametrize("settings", [SFT, BELIEF, {}], ids=["sft", "belief", "ptr"])
def test_a_resumed_run_equals_an_uninterrupted_run(
    metaworld_dataset: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 25, "max_steps": 32, "logging_steps": 7, **settings}
    # The checkpoint lies between two updates of the controller, and the end after the next one.
    saving["controller_steps"] = 6
    straight = make(metaworld_dataset, tmp_path / "straight", **saving)
    straight.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 28

    broken = make(metaworld_dataset, tmp_path / "broken", **saving)
    broken.add_callback(Stop())
    broken.train()
    resumed = make(metaworld_dataset, tmp_path / "broken", seed=0, **saving)
    checkpoint = last_complete_checkpoint(tmp_path / "broken")
    assert checkpoint is not None and checkpoint.endswith("checkpoint-25")
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 32 and resumed.state.epoch > 1.5
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    for mine, other in (
        (straight.identification.pool, resumed.identification.pool),
        (straight.identification.controller, resumed.identification.controller),
        (straight.carry, resumed.carry),
    ):
        before, after = mine.state_dict(), other.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert [entry for entry in straight.state.log_history if "loss" in entry] == [
        entry for entry in resumed.state.log_history if "loss" in entry
    ]


def test_an_incomplete_checkpoint_is_ignored(tmp_path: Path) -> None:
    for step, content in ((5, "{}"), (10, '{"cut off'), (15, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    assert last_complete_checkpoint(tmp_path / "nothing") is None


def test_a_saved_run_has_the_policy_and_the_ptr_parts(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path)
    trainer.train()
    trainer.save_model()
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".jsonl", ".safetensors"}
    policy, processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(policy, VLAPolicy)
    assert isinstance(AutoModel.from_pretrained(tmp_path, subfolder="scorer"), TransitionScorer)
    assert isinstance(AutoModel.from_pretrained(tmp_path, subfolder="belief_tokenizer"), BeliefTokenizer)
    whole = PTRModel.from_pretrained(tmp_path)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    inputs = processor(["Press the button down from above."], torch.zeros(1, 39), torch.zeros(1, 4))
    chunks = []
    for actor in (policy, whole.policy, trainer.model.policy.eval()):
        actor.reset()
        generator = torch.Generator().manual_seed(0)
        chunks.append([actor.predict_action_chunk(inputs, generator=generator) for _ in range(2)])
    for first, second in chunks[1:]:
        torch.testing.assert_close(first, chunks[0][0], rtol=0, atol=1e-6)
        torch.testing.assert_close(second, chunks[0][1], rtol=0, atol=1e-6)


def test_a_policy_can_be_given_as_a_folder(metaworld_dataset: Path, tmp_path: Path) -> None:
    first = make(metaworld_dataset, tmp_path / "first", max_steps=2)
    first.train()
    first.save_model()
    args = PTRConfig(output_dir=str(tmp_path / "second"), max_steps=1, save_strategy="no", **SFT)
    second = PTRTrainer(
        str(tmp_path / "first"),
        args,
        train_dataset=first.train_dataset,
        processing_class=first.processing_class,
    )
    assert second.model.belief_tokenizer is None and second.model.policy.config.belief_tokens == 0
    second.train()


def test_a_run_resumes_with_its_own_parts_and_refuses_others(metaworld_dataset: Path, tmp_path: Path) -> None:
    first = make(metaworld_dataset, tmp_path / "first", max_steps=2)
    first.train()
    first.save_model()
    data = {"train_dataset": first.train_dataset, "processing_class": first.processing_class}
    again = PTRTrainer(str(tmp_path / "first"), PTRConfig(output_dir=str(tmp_path / "again")), **data)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    with pytest.raises(InputError, match="the model has a scorer and 4 belief tokens, and the settings ask for none"):
        PTRTrainer(first.model, PTRConfig(output_dir=str(tmp_path / "other"), **SFT), **data)


def test_the_best_checkpoint_is_loaded_completely(metaworld_dataset: Path, tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    trainer = make(metaworld_dataset, tmp_path, save_strategy="steps", eval_dataset=True, save_total_limit=9, **best)
    # The later, the worse: the first checkpoint is the best.
    evaluate = trainer.evaluate
    trainer.evaluate = lambda *args, **kwargs: (
        evaluate(*args, **kwargs) | {"eval_loss": float(trainer.state.global_step)}
    )
    trainer.train()
    saved = PTRModel.from_pretrained(tmp_path / "checkpoint-2").state_dict()
    last = PTRModel.from_pretrained(tmp_path / "checkpoint-6").state_dict()
    now = trainer.model.state_dict()
    assert all(torch.equal(now[name], saved[name]) for name in now)
    assert not all(torch.equal(last[name], saved[name]) for name in now)


def test_a_non_finite_loss_stops_the_run(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path, learning_rate=1e30, max_grad_norm=0.0, max_steps=20, **SFT)
    with pytest.raises(
        InputError, match=r"every chunk of the batch, such as frame \d+ .* at step \d+; .* lower learning_rate"
    ):
        trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"bf16": True}, {"torch_compile": True, "torch_compile_backend": "eager"}, {CHECKPOINTING: True}],
    ids=["bf16", "compile", "checkpointing"],
)
def test_the_target_is_the_moving_average_of_the_tower(
    metaworld_dataset: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    # Of a backbone that can recompute its activations.
    checkpointing = CHECKPOINTING in settings
    encoder = {"text_model": str(saved_text_encoder(tmp_path / "text"))} if checkpointing else {}
    trainer = make(
        metaworld_dataset, tmp_path / "run", use_cpu=True, target_decay=0.5, policy_settings=encoder, **settings
    )
    expected: dict[str, torch.Tensor] = {}
    tower = trainer.model.policy.observation_tower

    class Follow(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            expected.update({name: tensor.clone() for name, tensor in tower().state_dict().items()})

        def on_optimizer_step(self, args, state, control, **kwargs):
            for name, tensor in tower().state_dict().items():
                expected[name] = 0.5 * expected[name] + 0.5 * tensor

    trainer.add_callback(Follow())
    before = {name: tensor.clone() for name, tensor in tower().state_dict().items()}
    trainer.train()
    recomputed = [part for part in trainer.model.modules() if getattr(part, "gradient_checkpointing", False)]
    assert bool(recomputed) == checkpointing
    found = trainer.model.target_encoder.tower.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    assert any(not torch.equal(before[name], tensor) for name, tensor in found.items())


def test_untrainable_arguments_are_named(metaworld_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="activation_checkpointing: no part of VLAPolicy supports it"):
        make(metaworld_dataset, tmp_path, **{CHECKPOINTING: True}).train()
    with pytest.raises(InputError, match="target_offset 500 reaches beyond every episode"):
        make(metaworld_dataset, tmp_path, target_offset=500)


def test_evaluation_is_unweighted_and_does_not_change_training(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path)
    trainer.train()
    trainer.eval_dataset = trainer.train_dataset
    before = {**trainer.identification.pool.state_dict(), **trainer.carry.state_dict()}
    torch.manual_seed(3)
    loss = trainer.evaluate()["eval_loss"]
    after = {**trainer.identification.pool.state_dict(), **trainer.carry.state_dict()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    trainer.args.w_max, trainer.args.w_min = 1.0, 1.0
    torch.manual_seed(3)
    assert trainer.evaluate()["eval_loss"] == loss


def test_a_quantised_tower_has_no_target(metaworld_dataset: Path, tmp_path: Path) -> None:
    policy, _ = policy_from_dataset(read_dataset(metaworld_dataset), observation_features=OBSERVATION)
    layer = policy.tower.layers[0]
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="the observation tower is quantised, and its EMA target"):
        as_ptr_model(policy, PTRConfig(output_dir=str(tmp_path)))
    assert as_ptr_model(policy, PTRConfig(output_dir=str(tmp_path), **SFT)).target_encoder is None


def test_a_model_that_is_not_a_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match="TransitionScorer cannot be post-trained: it lacks observation_tower, normalized_state, feature_sizes",
    ):
        PTRTrainer(
            AutoModel.from_config(TransitionScorer.config_class()),
            PTRConfig(output_dir=str(tmp_path), **SFT),
            data_collator=dict,
        )
