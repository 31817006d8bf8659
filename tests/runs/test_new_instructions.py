"""Post-training of a policy on tasks with instructions that it does not know yet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from hf_ptr.data import read_dataset
from hf_ptr.envs.metaworld.environment import MetaWorld
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.errors import InputError
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.policies import policy_from_dataset
from hf_ptr.policies.vla.building import learn_instructions
from hf_ptr.runs.run import run_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "vla" / "metaworld_posttrain" / "sft.yaml"
OBSERVATION = ["observation.environment_state"]
KNOWN = "Push the drawer closed."


@pytest.fixture(scope="module")
def closing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy trained on one task, which is not in the demonstrations."""
    folder = tmp_path_factory.mktemp("closing")
    table = read_dataset(record_metaworld(["drawer-close"], 2, folder / "data", workers=1))
    size = {"hidden_size": 16, "action_size": 8, "encoder_size": 16, "expert_size": 32, "num_expert_layers": 1}
    policy, processor = policy_from_dataset(table, observation_features=OBSERVATION, **size)
    policy.save_pretrained(folder / "policy")
    processor.save_pretrained(folder / "policy")
    return folder / "policy"


def post_train(closing: Path, dataset: Path, out: Path, *overrides: str) -> Path:
    few = ["max_steps=2", "per_device_train_batch_size=16", "warmup_steps=0", "disable_tqdm=true", "save_strategy=no"]
    return run_recipe(RECIPE, [f"policy={closing}", f"dataset={dataset}", f"output_dir={out}", *few, *overrides])


def test_new_instructions_are_added_to_the_known_ones(closing: Path, metaworld_dataset: Path, tmp_path: Path) -> None:
    before = AutoModel.from_pretrained(closing).instruction_embedding.weight
    run = post_train(closing, metaworld_dataset, tmp_path / "run", "weight_decay=0.0")
    policy, processor = AutoModel.from_pretrained(run), AutoProcessor.from_pretrained(run)
    after, tasks = policy.instruction_embedding.weight, read_dataset(metaworld_dataset).tasks
    ids = [int(processor.encode_instructions([text])["instruction_ids"]) for text in (KNOWN, *tasks)]
    assert ids == list(range(1, 2 + len(tasks))) and policy.config.num_instructions == 1 + len(tasks)
    # The embedding of the known instruction is unchanged; each new one has moved from its initial value.
    torch.testing.assert_close(after[:2], before, rtol=0, atol=0)
    assert (after[2:] != before[1]).any(dim=1).all()
    # The policy acts on new and known tasks.
    evaluate_in(MetaWorld(), run, ["reach", "drawer-close"], 1, max_steps=10, workers=1)


def test_a_policy_that_knows_all_instructions_is_unchanged(closing: Path) -> None:
    policy, processor = AutoModel.from_pretrained(closing), AutoProcessor.from_pretrained(closing)
    before = policy.instruction_embedding
    assert learn_instructions(policy, processor, [KNOWN]) == []
    assert policy.instruction_embedding is before
    assert learn_instructions(policy, processor, ["", KNOWN, "", "Stop."]) == ["", "Stop."]
    assert int(processor.encode_instructions(["Stop."])["instruction_ids"]) == 3


def test_an_adapter_cannot_add_instructions(closing: Path, metaworld_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no embedding for the instruction .* policy with a text encoder"):
        post_train(closing, metaworld_dataset, tmp_path / "run", "use_peft=true")
    assert not (tmp_path / "run").exists()
