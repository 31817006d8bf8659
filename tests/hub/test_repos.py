"""Sources: local paths, repositories on the Hub, and one line for each error."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from data_helpers import assert_same_table, coded_table, with_camera, write_v21
from hub_server import HubServer
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
from model_helpers import saved_text_encoder
from transformers import AutoModel

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.errors import DataWarning, InputError
from hf_ptr.hub import repos as hub_repos
from hf_ptr.hub.datasets import load_dataset, pull_videos, score_file_path
from hf_ptr.hub.repos import (
    HubRepo,
    checkpoint_folder,
    dataset_folder,
    is_unreachable,
    model_folder,
    origin,
    parse_hub_dataset,
    parse_hub_repo,
)
from hf_ptr.policies import policy_from_dataset


def put(hub: HubServer, repo_id: str, files: dict[str, bytes], kind: str = "model", private: bool = False) -> None:
    """A repository with these files on its main branch."""
    hub.store.create(kind, repo_id, private)
    repo = hub.store.repos[kind, repo_id]
    stored = {path: hub.store.put(content, large=path.endswith("safetensors")) for path, content in files.items()}
    hub.store.commit(repo, "main", stored, [], None, "put")


@pytest.mark.parametrize(
    ("text", "repo"),
    [
        ("user/name", HubRepo("user/name")),
        ("user/name@v1.0", HubRepo("user/name", "v1.0")),
        ("user/name@refs/pr/1", HubRepo("user/name", "refs/pr/1")),
        ("name", None),
        ("./user/name", None),
        ("/user/name", None),
        ("../name", None),
        ("a/b/c", None),
        ("user/", None),
    ],
)
def test_repo_ids_are_distinguished_from_paths(text: str, repo: HubRepo | None) -> None:
    assert parse_hub_repo(text) == repo


def test_a_local_folder_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "name").mkdir(parents=True)
    assert model_folder("user/name") == Path("user/name") and hub.requests == []


def test_a_revision_is_downloaded_and_recognised_in_the_cache(hub: HubServer) -> None:
    put(hub, "alice/versions", {"config.json": b"1", "model.safetensors": b"one"})
    first = hub.store.repos["model", "alice/versions"].branches["main"]
    put(hub, "alice/versions", {"config.json": b"2"})
    hub.store.repos["model", "alice/versions"].tags["v1"] = first
    for revision in ("v1", first):
        folder = model_folder(f"alice/versions@{revision}")
        assert (folder / "config.json").read_bytes() == b"1" and (folder / "model.safetensors").read_bytes() == b"one"
        assert origin(folder) == HubRepo("alice/versions", first)
    assert (model_folder("alice/versions") / "config.json").read_bytes() == b"2"


def test_only_required_files_are_downloaded(hub: HubServer) -> None:
    videos = {f"videos/observation.images.{name}/chunk-000/file-000.mp4": b"0" for name in ("front", "wrist")}
    put(hub, "alice/videos", {"meta/info.json": b"{}", "data/a.parquet": b"0", "README.md": b"", **videos}, "dataset")
    folder = dataset_folder("alice/videos", ["observation.images.front"])
    pulled = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert pulled == {"meta/info.json", "data/a.parquet", "videos/observation.images.front/chunk-000/file-000.mp4"}
    table = replace(
        coded_table([5]), source="alice/videos", revision=folder.name, videos={"observation.images.wrist": {}}
    )
    pull_videos(table, ["observation.state", "observation.images.wrist"])
    assert (folder / "videos/observation.images.wrist/chunk-000/file-000.mp4").is_file()
    put(
        hub,
        "alice/run",
        {"config.json": b"{}", "last-checkpoint/trainer_state.json": b"0", "checkpoint-5/a.json": b"0"},
    )
    assert {path.name for path in model_folder("alice/run").iterdir()} == {"config.json"}
    assert {path.name for path in checkpoint_folder("alice/run").iterdir()} == {"trainer_state.json"}
    put(hub, "alice/steps", {f"checkpoint-{n}/trainer_state.json": str(n).encode() for n in (9, 10)})
    assert (checkpoint_folder("alice/steps") / "trainer_state.json").read_bytes() == b"10"


@pytest.mark.parametrize(
    ("text", "repo"),
    [
        ("user/name", HubRepo("user/name")),
        ("user/name/robot", HubRepo("user/name", None, "robot")),
        ("user/name/robot/pick_up@v1", HubRepo("user/name", "v1", "robot/pick_up")),
        ("user/name/robot/", HubRepo("user/name", None, "robot")),
        ("./user/name/robot", None),
        ("user/name/../../etc", None),
        ("/user/name/robot", None),
        ("user//robot", None),
    ],
)
def test_a_dataset_in_a_folder_of_a_repository_has_a_name(text: str, repo: HubRepo | None) -> None:
    assert parse_hub_dataset(text) == repo
    assert repo is None or str(repo) == text.rstrip("/")


def test_only_the_folder_of_a_dataset_is_downloaded(hub: HubServer, tmp_path: Path) -> None:
    camera = "observation.images.front"
    folder = write_v21(with_camera(coded_table([5, 4]), camera), tmp_path / "set")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    both = {f"{name}/{path}": content for name in ("robot/pick", "robot/place") for path, content in files.items()}
    put(hub, "alice/many", both, "dataset")
    table = load_dataset("alice/many/robot/pick", cameras=())
    assert_same_table(table, read_dataset(folder))
    assert table.source == "alice/many/robot/pick" and table.revision is not None
    home = dataset_folder("alice/many/robot/pick")
    assert origin(home) == HubRepo("alice/many", table.revision, "robot/pick")
    pulled = {path.relative_to(home.parents[1]).as_posix() for path in home.parents[1].rglob("*") if path.is_file()}
    assert pulled == {f"robot/pick/{path}" for path in files if not path.endswith(".mp4")}
    # Its videos, all of a camera or one by one, are those of the folder.
    chunks = ChunkDataset(
        load_dataset("alice/many/robot/pick", streaming=True), chunk_size=2, target_offset=2,
        observation_features=[camera], image_size=16,
    )  # fmt: skip
    assert chunks.batch([7])["observation"].any()
    pull_videos(table, [camera])
    assert sorted(path.name for path in home.rglob("*.mp4")) == ["episode_000000.mp4", "episode_000001.mp4"]
    with pytest.raises(InputError, match="the dataset alice/many has no folder 'robot/push'"):
        load_dataset("alice/many/robot/push")


def test_a_cache_without_branches_is_read_without_a_connection(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, "alice/copied", {"meta/info.json": b"{}"}, "dataset")
    folder = dataset_folder("alice/copied")
    shutil.rmtree(folder.parents[1] / "refs")
    monkeypatch.setattr(hub_repos, "_download", _unreachable)
    with pytest.warns(DataWarning, match=f"alice/copied is read from the cache at commit {folder.name}"):
        assert dataset_folder("alice/copied") == folder
    assert dataset_folder(f"alice/copied@{folder.name}") == folder
    with pytest.raises(InputError, match="the Hub cannot be reached"):
        dataset_folder("alice/copied@v2")


def _unreachable(*_: object) -> Path:
    raise OfflineModeIsEnabled("offline")


def test_an_impossible_name_is_refused_without_a_request(hub: HubServer) -> None:
    with pytest.raises(InputError, match="nowhere is neither a local folder nor a repo id; pass a run's folder, or"):
        model_folder("nowhere")
    assert hub.requests == []


def test_every_error_is_one_line(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, "alice/secret", {"config.json": b"{}"}, private=True)
    put(hub, "alice/gated", {"config.json": b"{}"})
    put(hub, "alice/open", {"config.json": b"{}"})
    put(hub, "alice/data", {"meta/info.json": b"{}"}, "dataset")
    put(hub, "alice/pickled", {"config.json": b"{}", "pytorch_model.bin": b"0"})
    hub.store.repos["model", "alice/gated"].gated = True
    hub.store.repos["model", "alice/open"].tags["v1.0"] = hub.store.repos["model", "alice/open"].branches["main"]
    refused = {
        "alice/secret": "neither a local folder nor a model on the Hub; check the name, or if it is private, log in",
        "alice/missing": "neither a local folder nor a model on the Hub",
        "alice/gated": "is gated: request access at http://.*/alice/gated, then log in",
        "alice/open@v1.O": r"has no revision 'v1.O'. Did you mean 'v1.0'\? It has main, v1.0",
        "alice/pickled": "alice/pickled holds pytorch_model.bin, a pickle",
    }
    for source, message in refused.items():
        with pytest.raises(InputError, match=message):
            model_folder(source)
    assert not any("pytorch_model.bin" in request for request in hub.requests)
    with pytest.raises(InputError, match=r"alice/data holds no scores\.parquet"):
        score_file_path("alice/data")
    with pytest.raises(InputError, match="alice/open holds no checkpoint to resume from"):
        checkpoint_folder("alice/open")
    for name in ("optimizer.pt", "rng_state.pth", "global_step5/mp_rank_00_model_states.pt"):
        put(hub, "alice/old", {f"checkpoint-5/{name}": b"0", "checkpoint-5/trainer_state.json": b"{}"})
        with pytest.raises(InputError, match=f"alice/old holds checkpoint-5/{name}, a pickle, which hf-ptr neither"):
            checkpoint_folder("alice/old")
        hub.store.repos.pop(("model", "alice/old"))
    assert not any("optimizer.pt" in request for request in hub.requests)
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    with pytest.raises(InputError, match="or use a token that may read it"):
        model_folder("alice/secret")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        InputError, match="the Hub rejects the token; log in with `hf auth login`, or set HF_TOKEN to a valid one"
    ):
        dataset_folder("alice/data")
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert (model_folder("alice/secret") / "config.json").is_file()


def test_pretrained_towers_are_loaded_at_a_revision(hub: HubServer, tmp_path: Path) -> None:
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for revision in ("v1", "v2"):
        folder = saved_text_encoder(tmp_path / revision)
        encoder = AutoModel.from_pretrained(folder)
        if revision == "v2":
            torch.nn.init.normal_(encoder.embeddings.word_embeddings.weight)
            encoder.save_pretrained(folder)
        put(hub, "alice/text", {path.name: path.read_bytes() for path in folder.iterdir()})
        repo = hub.store.repos["model", "alice/text"]
        repo.tags[revision] = repo.branches["main"]
        kept[revision] = encoder.state_dict()
    put(hub, "alice/pickled", {"config.json": (folder / "config.json").read_bytes(), "pytorch_model.bin": b"0"})
    table = coded_table([20])
    build = partial(policy_from_dataset, table, observation_features=["observation.state"], hidden_size=8)
    for revision in ("v1", "v2"):
        policy, _ = build(text_model=f"alice/text@{revision}")
        assert policy.text_encoder is not None
        for name, tensor in policy.text_encoder.state_dict().items():
            assert torch.equal(tensor, kept[revision][name]), name
    for source, message in (
        ("alice/text@v3", r"has no revision 'v3'. It has main, v1, v2"),
        ("alice/none", "neither a local folder nor a model on the Hub"),
        ("alice/pickled", "alice/pickled holds pytorch_model.bin, a pickle"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            build(text_model=source)
        assert "\n" not in str(caught.value)
    assert not any("pytorch_model.bin" in request for request in hub.requests if request.startswith("GET"))


def test_a_missing_connection_is_distinguished_from_other_errors() -> None:
    with pytest.raises(Exception) as caught:
        HfApi(endpoint="http://127.0.0.1:9").model_info("alice/open")
    assert is_unreachable(caught.value) and not is_unreachable(ValueError())
