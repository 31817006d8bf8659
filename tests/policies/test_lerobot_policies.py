"""Policies of LeRobot: the contract, LeRobot's own loss and actions, and loading by LeRobot (`make test-lerobot`)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from camera_helpers import CAMERAS, camera_batch, camera_table
from data_helpers import coded_table, with_camera, write_v21
from hub_server import HubServer
from model_helpers import INSTRUCTIONS, Batch
from policy_contract import ACTING, PolicyContract, assert_other_shapes_are_one_line

from hf_ptr.data import read_dataset
from hf_ptr.errors import InputError
from hf_ptr.evaluation.offline import evaluate_dataset
from hf_ptr.policies import adapter_of, load_policy
from hf_ptr.policies.lora import with_adapter
from hf_ptr.runs.run import run_recipe
from hf_ptr.training.ptr_model import build_ptr_model

HERE = importlib.util.find_spec("lerobot") is not None
# The first policy of a process imports LeRobot, for minutes on busy cores.
pytestmark = pytest.mark.timeout(1800)
needs_lerobot = pytest.mark.skipif(not HERE, reason="LeRobot needs an environment of its own: make test-lerobot")
PI_LAYERS = r".*\.(language_model|gemma_expert\.model|vision_model.*)\.layers\.\d+\.self_attn\.(q|v)_proj"
LORA: dict[str, Any] = {
    "act": ["linear1", "linear2", "layer1.0.conv1"],
    "diffusion": ["cond_encoder.1", "layer1.0.conv1", "4.0.conv1"],
    "pi0": PI_LAYERS,
    "pi05": PI_LAYERS,
    "smolvla": r".*(lm_expert|vision_model\.encoder)\.layers\.\d+\.self_attn\.(q|v)_proj",
}
KINDS = tuple(LORA)
RECIPES = Path(__file__).parents[2] / "recipes" / "smolvla" / "g1"

if HERE:
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot_helpers import SIZE, config_of, serve_paligemma, shrink_pi, tiny_lerobot, tiny_smolvlm, word_tokenizer
    from peft import LoraConfig

    from hf_ptr.policies.lerobot.processor import LeRobotProcessor, with_state_words


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_smolvlm(tmp_path_factory.mktemp("smolvlm"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small offline components of π."""
    shrink_pi(monkeypatch)
    serve_paligemma(hub, tmp_path_factory.mktemp("paligemma"))
    yield


@needs_lerobot
@pytest.mark.usefixtures("small")
class LeRobotContract(PolicyContract):
    kind: str
    smolvlm: Path

    @pytest.fixture(autouse=True)
    def _keep(self, smolvlm: Path) -> None:
        self.smolvlm = smolvlm

    def targets(self) -> list[str] | str:
        return LORA[self.kind]

    def policy(self) -> Any:
        return tiny_lerobot(self.kind, self.smolvlm)

    def batch(self, seed: int = 0) -> Batch:
        return camera_batch(LeRobotProcessor.from_config(config_of(self.kind, self.smolvlm)), seed, SIZE)

    def save_processor(self, folder: Path) -> None:
        """Written with the policy."""

    def policy_folder(self, folder: Path) -> None:
        policy = self.policy()
        policy.save_pretrained(folder)
        adapter_of(policy).save_extra_files(folder, adapted=False)


class TestACT(LeRobotContract):
    kind = "act"

    def policy(self) -> Any:
        # Its latent is encoded in training alone.
        return super().policy().train()


class TestDiffusion(LeRobotContract):
    kind = "diffusion"
    # Its first step divides by what is left of the action in the noise, a hundredth.
    merged_atol = 1e-3


class TestPi0(LeRobotContract):
    kind = "pi0"
    # Parameters that π0 never uses: the output embeddings of words.
    unreached = ("lm_head.weight",)


class TestPi05(LeRobotContract):
    kind = "pi05"
    unreached = TestPi0.unreached


class TestSmolVLA(LeRobotContract):
    kind = "smolvla"


def as_recorded(batch: Batch, kind: str) -> dict[str, Any]:
    """A batch as LeRobot's own loader would hand it over; for a diffusion policy with the one frame that it reads."""
    seen = batch["observation"].float().div(255).permute(1, 0, 4, 2, 3)
    return {
        **dict(zip(CAMERAS, seen, strict=True)),
        "observation.state": batch["state"][:, None] if kind == "diffusion" else batch["state"],
        "action": batch["actions"],
        "action_is_pad": ~batch["action_mask"],
        "task": [INSTRUCTIONS[number] for number in batch["task_index"].tolist()],
    }


@needs_lerobot
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_actions_equal_lerobots(kind: str, smolvlm: Path, tmp_path: Path) -> None:
    """By LeRobot's own processors and forward pass, on the policy and on what LeRobot loads of it."""
    policy = tiny_lerobot(kind, smolvlm)
    adapter, batch = adapter_of(policy), camera_batch(LeRobotProcessor.from_config(policy.config), 0, SIZE)
    batch["action_mask"][:] = True
    build_ptr_model(policy, with_scorer=True, belief_tokens=0).save_pretrained(tmp_path)
    again: Any = get_policy_class(kind).from_pretrained(tmp_path)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    before, after = make_pre_post_processors(again.config, pretrained_path=str(tmp_path))

    # The latent of ACT is drawn in training alone.
    policy.train(kind == "act"), again.train(kind == "act")
    per_sample = kind not in ("act", "diffusion")
    torch.manual_seed(3)
    loss = again.forward(before(as_recorded(batch, kind)), **({"reduction": "none"} if per_sample else {}))[0]
    torch.manual_seed(3)
    passed = adapter.forward({name: batch[name] for name in (*ACTING, "actions", "action_mask")})
    mine = passed.action_loss if per_sample else passed.action_loss.mean()
    torch.testing.assert_close(mine, loss, rtol=1e-5, atol=1e-5)

    policy.eval(), again.eval()
    width = 4 if kind == "diffusion" else 8
    noise = torch.randn(6, 4, width, generator=torch.Generator().manual_seed(0))
    seen = before({name: value for name, value in as_recorded(batch, kind).items() if not name.startswith("action")})
    acted = after(again.predict_action_chunk(seen, **({} if kind == "act" else {"noise": noise})))
    inputs = {name: batch[name] for name in ACTING}
    chunk = adapter.predict_action_chunk(inputs, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(chunk, acted, rtol=1e-4, atol=1e-4)


@needs_lerobot
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", KINDS)
def test_lerobot_loads_an_adapter(kind: str, smolvlm: Path, tmp_path: Path) -> None:
    """As its own evaluation does: from the adapter's folder, which names the policy below."""
    from lerobot.configs.policies import PreTrainedConfig
    from peft import PeftConfig, PeftModel

    policy = tiny_lerobot(kind, smolvlm)
    policy.save_pretrained(tmp_path / "base")
    adapter_of(policy).save_extra_files(tmp_path / "base", adapted=False)
    below = load_policy(str(tmp_path / "base"))[0].model
    targets = globals()[
        {"act": "TestACT", "diffusion": "TestDiffusion", "smolvla": "TestSmolVLA"}.get(kind, "TestPi0")
    ]
    targets = targets.lora_targets if isinstance(targets.lora_targets, str) else list(targets.lora_targets)
    adapted = with_adapter(below, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    model = build_ptr_model(adapted, with_scorer=True, belief_tokens=0)
    model.save_pretrained(tmp_path / "run")
    config = PreTrainedConfig.from_pretrained(tmp_path / "run")
    found = PeftConfig.from_pretrained(str(tmp_path / "run"))
    assert config.use_peft and Path(found.base_model_name_or_path) == tmp_path / "base"
    again = get_policy_class(kind).from_pretrained(found.base_model_name_or_path)
    again = PeftModel.from_pretrained(again, str(tmp_path / "run")).get_base_model()
    for name, tensor in below.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@needs_lerobot
def test_unsuitable_data_are_one_line(smolvlm: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reads 2 frames"):
        tiny_lerobot("diffusion", n_obs_steps=2)
    policy = tiny_lerobot("act")
    batch = camera_batch(LeRobotProcessor.from_config(policy.config), 0, SIZE)
    for kind in ("act", "diffusion", "smolvla"):
        model = build_ptr_model(tiny_lerobot(kind, smolvlm), with_scorer=False, belief_tokens=0)
        assert_other_shapes_are_one_line(model, batch)
    with pytest.raises(InputError, match=r"made for 'observation.images.front' of shape \(3, 40, 48\).*\(3, 12, 16\)"):
        adapter_of(policy).fit_to(camera_table(), observation_features=CAMERAS)
    with pytest.raises(InputError, match=r"made for 'observation.images.wrist'.*None"):
        adapter_of(policy).fit_to(camera_table(SIZE), observation_features=CAMERAS[:1])
    policy.save_pretrained(tmp_path / "act")
    weights = tmp_path / "act" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match="damaged"):
        load_policy(str(tmp_path / "act"))
    weights.unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        load_policy(str(tmp_path / "act"))


@needs_lerobot
def test_a_recipe_trains_a_pretrained_smolvla(smolvlm: Path, tmp_path: Path) -> None:
    """From a SmolVLA that LeRobot saved to an adapter that is evaluated, as a user would."""
    dataset = write_v21(with_camera(coded_table([40, 40, 40]), CAMERAS[0]), tmp_path / "data")
    get_policy_class("smolvla")(config_of("smolvla", smolvlm, train_expert_only=True)).save_pretrained(
        tmp_path / "smolvla"
    )
    changes = {
        "policy": tmp_path / "smolvla",
        "dataset": dataset,
        "output_dir": tmp_path / "run",
        "episodes": "0:2",
        "eval_episodes": "2:3",
        "max_steps": 2,
        "save_steps": 1,
        "warmup_steps": 0,
        "nce_warmup_steps": 0,
        "target_offset": 4,
        "bf16": "false",
        "disable_tqdm": "true",
    }
    given = [f"{key}={value}" for key, value in changes.items()]
    folder = run_recipe(RECIPES / "ptr_lora.yaml", given)
    assert (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
    policy, _ = load_policy(str(folder))
    assert policy.config.observation_features == [CAMERAS[0]] and policy.config.belief_tokens == 4
    table = read_dataset(dataset, episodes=[2])
    assert bool((evaluate_dataset(folder, table).policy > 0).all())
    folder = run_recipe(RECIPES / "sft.yaml", [*given, f"output_dir={tmp_path / 'sft'}"])
    assert get_policy_class("smolvla").from_pretrained(folder).config.image_features.keys() == {CAMERAS[0]}


@needs_lerobot
def test_a_tokenizer_that_joins_numbers_is_refused_for_pi05() -> None:
    with pytest.raises(InputError, match="encodes a number differently"):
        with_state_words(word_tokenizer(r"[0-9 ]+|[^0-9 ]+"), ["push"], 48)


def test_without_lerobot_there_is_one_line(tmp_path: Path) -> None:
    for kind, message in (("act", r"pip install 'hf-ptr\[lerobot\]'"), ("tdmpc", "there are: .*lerobot/act")):
        if kind == "act" and HERE:
            continue
        (tmp_path / "config.json").write_text(json.dumps({"type": kind}))
        with pytest.raises(InputError, match=message):
            load_policy(str(tmp_path))
