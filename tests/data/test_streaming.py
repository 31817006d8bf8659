"""Streaming a dataset from the Hub: training starts before all videos are downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import coded_table, with_camera, write_v21
from hub_server import HubServer
from torch.utils.data import DataLoader
from transformers import AutoModel

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.errors import InputError
from hf_ptr.hub.datasets import load_dataset
from hf_ptr.runs.run import run_recipe

CAMERA = "observation.images.top"


@pytest.fixture
def there(hub: HubServer, tmp_path: Path) -> str:
    """Four episodes with one video each, at revision `v1` of a repository."""
    folder = write_v21(with_camera(coded_table([9, 5, 12, 6]), CAMERA), tmp_path / "v21")
    # A unique name, since the cache holds the repository of the previous test.
    repo_id = f"alice/{tmp_path.name}"
    hub.store.create("dataset", repo_id, False)
    repo = hub.store.repos["dataset", repo_id]
    stored = {
        path.relative_to(folder).as_posix(): hub.store.put(path.read_bytes(), large=path.suffix != ".json")
        for path in folder.rglob("*")
        if path.is_file()
    }
    repo.tags["v1"] = hub.store.commit(repo, "main", stored, [], None, "record")
    # The main branch has different content.
    hub.store.commit(repo, "main", {}, ["meta"], None, "break")
    return f"{repo_id}@v1"


def pulled(hub: HubServer) -> set[str]:
    """The videos that were requested."""
    return {request.rpartition("/")[2] for request in hub.requests if request.endswith(".mp4")}


def test_a_video_is_downloaded_when_its_first_frame_is_needed(hub: HubServer, there: str, tmp_path: Path) -> None:
    table = load_dataset(there, streaming=True)
    assert table.source == there.removesuffix("@v1") and table.revision is not None and pulled(hub) == set()
    here = load_dataset(str(tmp_path / "v21"))
    cut = {"chunk_size": 4, "target_offset": 3, "image_size": 24}
    far, near = (ChunkDataset(each, observation_features=[CAMERA], **cut) for each in (table, here))
    rows = [0, 3, 15, 16]
    for key, value in near.batch(rows).items():
        assert value.equal(far.batch(rows)[key]), key
    assert pulled(hub) == {"episode_000000.mp4", "episode_000002.mp4"}
    # Each video was requested once.
    asked = len(hub.requests)
    ChunkDataset(table, observation_features=[CAMERA], **cut).batch(rows)
    assert len(hub.requests) == asked
    # Workers download the other videos; the order is that of a local dataset.
    batches = SegmentBatches(far, 4, seed=1)
    loader = DataLoader(far, batch_sampler=batches, num_workers=2)
    for batch, wanted in zip(loader, batches, strict=True):
        assert torch.equal(batch["observation"], near.batch(wanted)["observation"])
    assert len(pulled(hub)) == 4


@pytest.mark.parametrize(("cameras", "videos"), [((), 0), ([CAMERA], 4), (None, 4)])
def test_without_streaming_the_videos_of_the_cameras_are_downloaded_first(
    hub: HubServer, there: str, cameras: list[str] | None, videos: int
) -> None:
    table = load_dataset(there, cameras=cameras)
    assert len(pulled(hub)) == videos
    assert table.source == there.removesuffix("@v1") and table.revision is not None
    assert table.num_episodes == 4


def test_a_recipe_trains_from_the_hub(hub: HubServer, there: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    settings = {
        "dataset": there, "streaming": "true", "episodes": '"1,3"', "observation_features": f"[{CAMERA}]",
        "size": "tiny", "image_size": 32, "chunk_size": 4, "n_action_steps": 4, "target_offset": 2,
        "max_steps": 2, "per_device_train_batch_size": 4, "output_dir": tmp_path / "out", "use_cpu": "true",
        "alpha": 0.0, "belief_tokens": 0, "disable_tqdm": "true",
    }  # fmt: skip
    recipe.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    policy = AutoModel.from_pretrained(run_recipe(recipe))
    assert all(torch.isfinite(value).all() for value in policy.state_dict().values() if value.is_floating_point())
    assert pulled(hub) == {"episode_000001.mp4", "episode_000003.mp4"}


def test_a_missing_video_is_one_line(hub: HubServer, there: str) -> None:
    table = load_dataset(there, streaming=True)
    repo = hub.store.repos["dataset", there.removesuffix("@v1")]
    del repo.commits[repo.tags["v1"]][f"videos/chunk-000/{CAMERA}/episode_000002.mp4"]
    reader = FrameReader(CAMERA, table.videos[CAMERA], table.fps)
    assert np.asarray(reader.read([0], [3])).any()
    with pytest.raises(InputError, match="lacks a required file") as caught:
        reader.read([2], [0])
    assert "\n" not in str(caught.value)
