"""LeRobot's policies of some thousand random weights, and the tokenizers that they load by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from camera_helpers import CAMERAS, camera_table
from hub_server import HubServer
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    AutoConfig,
    PreTrainedTokenizerFast,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from hf_ptr.policies import adapter_of

# An image size that a ResNet can halve five times, and that differs from the 32 pixels of the towers.
SIZE = (40, 48)
PALIGEMMA = "google/paligemma-3b-pt-224"
SPECIAL = ("<pad>", "<unk>", "<fake>", "<global>", "<image>", "<end>")
WORDS = ("push", "open", "close", "the", "cube", "drawer", "Task", "State", "Action", "do", "task")


def word_tokenizer(pieces_of: str = r"[A-Za-z]+|.") -> PreTrainedTokenizerFast:
    """Words, digits and every other character by itself; or by another pattern."""
    pieces = [*SPECIAL, *WORDS, *"0123456789 -:;,\n"]
    tokenizer = Tokenizer(WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(pieces_of), behavior="isolated")
    images = {
        "fake_image_token": "<fake>",
        "global_image_token": "<global>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end>",
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", extra_special_tokens=images
    )


def tiny_smolvlm(folder: Path) -> Path:
    """The configuration of a SmolVLM and its processor, from which a SmolVLA is built."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    text = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, **heads}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "smolvlm",
        text_config={**text, "vocab_size": 64, "pad_token_id": 0},
        vision_config={**vision, "image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=4,
        pad_token_id=0,
    )
    config.save_pretrained(folder)
    SmolVLMProcessor(SmolVLMImageProcessor(), word_tokenizer(), SmolVLMVideoProcessor()).save_pretrained(folder)
    return folder


def serve_paligemma(hub: HubServer, folder: Path) -> None:
    """Replaces PaliGemma's tokenizer in LeRobot."""
    word_tokenizer().save_pretrained(folder)
    hub.store.create("model", PALIGEMMA, private=False)
    files = {path.name: hub.store.put(path.read_bytes(), large=False) for path in folder.iterdir()}
    repo = hub.store.repos["model", PALIGEMMA]
    hub.store.commit(repo, "main", files, [], None, "tokenizer")


def shrink_pi(monkeypatch: pytest.MonkeyPatch) -> None:
    """LeRobot knows two sizes of π, both of billions of weights; this makes them small wherever they are built."""
    from lerobot.policies.pi0 import modeling_pi0
    from lerobot.policies.pi05 import modeling_pi05

    def small(variant: str) -> Any:
        return modeling_pi0.GemmaConfig(width=16, depth=2, mlp_dim=32, num_heads=8, num_kv_heads=1, head_dim=4)

    for module in (modeling_pi0, modeling_pi05):
        whole, expert = module.PaliGemmaForConditionalGenerationWithPiGemma, module.PiGemmaForCausalLM

        def paligemma(config: Any, made: Any = whole) -> Any:
            config.text_config.vocab_size = 64
            config.image_token_id = 4
            for name, value in {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "patch_size": 8,
                "projection_dim": 16,
            }.items():
                setattr(config.vision_config, name, value)
            return made(config)

        def gemma(config: Any, made: Any = expert) -> Any:
            config.vocab_size = 64
            return made(config)

        monkeypatch.setattr(module, "get_gemma_config", small)
        monkeypatch.setattr(module, "PaliGemmaForConditionalGenerationWithPiGemma", paligemma)
        monkeypatch.setattr(module, "PiGemmaForCausalLM", gemma)


def config_of(kind: str, smolvlm: Path | None = None, **changes: Any) -> Any:
    """The configuration of a tiny policy for [`camera_table`]."""
    features: dict[str, Any] = {
        "input_features": {
            "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
            **{camera: PolicyFeature(FeatureType.VISUAL, (3, *SIZE)) for camera in CAMERAS},
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (4,))},
        "device": "cpu",
    }
    chunk: dict[str, Any] = {"chunk_size": 4, "n_action_steps": 4}
    pi: dict[str, Any] = {**chunk, "max_state_dim": 8, "max_action_dim": 8, "image_resolution": (32, 32)}
    made, settings = {
        "act": (
            ACTConfig,
            {
                **chunk,
                "pretrained_backbone_weights": None,
                "dim_model": 16,
                "n_heads": 2,
                "dim_feedforward": 32,
                "n_encoder_layers": 1,
                "n_vae_encoder_layers": 1,
                "latent_dim": 4,
                "dropout": 0.0,
            },
        ),
        "diffusion": (
            DiffusionConfig,
            {
                "n_obs_steps": 1,
                "horizon": 4,
                "n_action_steps": 4,
                "pretrained_backbone_weights": None,
                "down_dims": (8, 16),
                "n_groups": 4,
                "spatial_softmax_num_keypoints": 4,
                "diffusion_step_embed_dim": 8,
                "num_train_timesteps": 10,
                "noise_scheduler_type": "DDIM",
            },
        ),
        "pi0": (PI0Config, {**pi, "num_inference_steps": 4}),
        "pi05": (PI05Config, {**pi, "num_inference_steps": 4}),
        "smolvla": (
            SmolVLAConfig,
            {
                **chunk,
                "max_state_dim": 8,
                "max_action_dim": 8,
                "resize_imgs_with_padding": (32, 32),
                "vlm_model_name": str(smolvlm),
                "num_vlm_layers": 2,
                "num_steps": 4,
                "train_expert_only": False,
                "freeze_vision_encoder": False,
            },
        ),
    }[kind]
    return made(**{**features, **settings, **changes})


def tiny_lerobot(kind: str, smolvlm: Path | None = None, **changes: Any) -> Any:
    """A policy fitted to [`camera_table`]."""
    torch.manual_seed(0)
    policy: Any = get_policy_class(kind)(config_of(kind, smolvlm, **changes)).eval()
    adapter_of(policy).fit_to(camera_table(SIZE), observation_features=CAMERAS)
    return policy
