"""Pushes over a real socket: atomic under lost connections, killed processes and concurrent pushes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from model_helpers import policy_inputs, text_processor, tiny_batch, tiny_model
from transformers import AutoConfig, AutoModel, AutoProcessor, TrainingArguments

from hf_ptr import BeliefTokenizer, PTRModel, TransitionScorer, VLAPolicy
from hf_ptr.errors import InputError
from hf_ptr.hub.push import ensure_repository, push_files, require_writable, run_files
from hf_ptr.training import publishing

ROOT = Path(__file__).resolve().parents[2]


def files(folder: Path, **content: str) -> dict[str, Path]:
    """Small files to push; `__` in a name stands for a dot, `___` for a slash."""
    made = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        path = name.replace("___", "/").replace("__", ".")
        made[path] = folder / name
        made[path].write_text(text)
    return made


def test_each_component_is_pushed_and_loaded_unchanged(logged_in: HubServer) -> None:
    model = tiny_model()
    assert model.scorer is not None and model.belief_tokenizer is not None
    model.scorer.push_to_hub("alice/scorer")
    model.belief_tokenizer.push_to_hub("alice/belief")
    text_processor().push_to_hub("alice/processor")
    model.policy.config.push_to_hub("alice/processor")
    model.push_to_hub("alice/whole", private=True)
    for repo, kind, mine in (
        ("alice/scorer", TransitionScorer, model.scorer),
        ("alice/belief", BeliefTokenizer, model.belief_tokenizer),
        ("alice/whole", VLAPolicy, model.policy),
    ):
        pulled = AutoModel.from_pretrained(repo)
        assert isinstance(pulled, kind) and AutoConfig.from_pretrained(repo).model_type == kind.config_class.model_type
        assert all(torch.equal(tensor, pulled.state_dict()[name]) for name, tensor in mine.state_dict().items())
    processor = AutoProcessor.from_pretrained("alice/processor")
    assert processor.encode_instructions(["push the cube"])["instruction_ids"].tolist() == [[2, 5, 6]]
    whole = PTRModel.from_pretrained("alice/whole")
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in model.state_dict().items())
    policy, inputs = AutoModel.from_pretrained("alice/whole").eval(), policy_inputs(tiny_batch())
    chunks = [
        actor.predict_action_chunk(inputs, generator=torch.Generator().manual_seed(0))
        for actor in (policy, model.policy.eval())
    ]
    torch.testing.assert_close(*chunks, rtol=0, atol=1e-6)
    kinds = {Path(name).suffix for repo in logged_in.store.repos for name in logged_in.store.files(repo[1])}
    assert kinds <= {".json", ".safetensors", ".jinja", ".md"}


def test_a_push_deletes_the_stale_files_of_the_push_before(logged_in: HubServer, tmp_path: Path) -> None:
    repo = ensure_repository("stale")
    assert repo == "alice/stale"
    tiny_model().save_pretrained(tmp_path / "ptr")
    tiny_model(with_scorer=False, belief_tokens=0).save_pretrained(tmp_path / "sft")
    notes = files(tmp_path, notes__md="mine")
    push_files(run_files(tmp_path / "ptr") | notes, repo, message="ptr")
    assert "scorer/model.safetensors" in logged_in.store.files(repo)
    push_files(run_files(tmp_path / "sft"), repo, message="sft", revision=None)
    there = set(logged_in.store.files(repo))
    assert there == {"config.json", "model.safetensors", "ptr/config.json", "notes.md"}
    assert AutoModel.from_pretrained(repo).config.belief_tokens == 0


def test_a_branch_is_created_and_main_stays_unchanged(logged_in: HubServer, tmp_path: Path) -> None:
    repo = ensure_repository("alice/branches", private=True, revision="trial/1")
    push_files(files(tmp_path, a__json="{}"), repo, message="trial", revision="trial/1")
    assert set(logged_in.store.files(repo, "trial/1")) == {"a.json"} and logged_in.store.files(repo) == {}
    assert logged_in.store.repos["model", repo].private


def test_a_private_push_to_a_public_repository_is_refused(logged_in: HubServer) -> None:
    for kind in ("model", "dataset"):
        ensure_repository("alice/open", kind)
        with pytest.raises(InputError, match="alice/open exists and is public, but private was requested"):
            ensure_repository("alice/open", kind, private=True)
        assert ensure_repository("alice/open", kind, private=False) == "alice/open"
        for _ in range(2):
            assert ensure_repository("alice/closed", kind, private=True) == "alice/closed"
        assert logged_in.store.repos[kind, "alice/closed"].private


def test_a_lost_connection_is_retried(logged_in: HubServer, tmp_path: Path) -> None:
    repo = ensure_repository("alice/broken")
    logged_in.breaks = 1
    sent = files(tmp_path, config__json="{}", model__safetensors="w" * 300_000)
    push_files(sent, repo, message="one")
    assert logged_in.breaks == 0
    stored = logged_in.store.repos["model", repo]
    large = {path for path, file in stored.commits[stored.branches["main"]].items() if file.large}
    assert large == {"model.safetensors"}
    assert logged_in.store.files(repo) == {path: file.read_bytes() for path, file in sent.items()}


@pytest.mark.slow
def test_a_killed_push_is_invisible_and_resumes(logged_in: HubServer, tmp_path: Path) -> None:
    repo = ensure_repository("alice/killed")
    sent = files(tmp_path, config__json="{}", model__safetensors="w" * 300_000)
    push_files(files(tmp_path / "old", config__json='{"old": 1}'), repo, message="old")
    before = logged_in.store.files(repo)
    sent |= files(tmp_path, scorer___model__safetensors="s" * 200_000)
    script = (
        "import sys; from pathlib import Path; from hf_ptr.hub.push import push_files\n"
        "files = {name: Path(path) for name, path in zip(sys.argv[2::2], sys.argv[3::2])}\n"
        "push_files(files, sys.argv[1], message='killed')"
    )
    arguments = [text for path, file in sent.items() for text in (path, str(file))]
    # One upload is complete; the other is half received when the process is killed.
    logged_in.hold_after = 1
    process = subprocess.Popen([sys.executable, "-c", script, repo, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        assert logged_in.held.wait(120)
    finally:
        process.kill()
        process.wait()
    assert sum(logged_in.uploads.values()) == 1
    assert logged_in.store.files(repo) == before
    logged_in.let_go.set()
    push_files(sent, repo, message="again")
    assert logged_in.store.files(repo) == {path: file.read_bytes() for path, file in sent.items()}
    assert list(logged_in.uploads.values()) == [1, 1]


def test_concurrent_pushes_are_serialised(logged_in: HubServer, tmp_path: Path) -> None:
    repo = ensure_repository("alice/both")
    one = files(tmp_path / "1", config__json="1", model__safetensors="1" * 999, scorer___model__safetensors="s" * 99)
    two = files(tmp_path / "2", config__json="2", model__safetensors="2" * 999)
    logged_in.hold_after = 0
    pushes = [threading.Thread(target=push_files, args=(sent, repo), kwargs={"message": "m"}) for sent in (one, two)]
    for push in pushes:
        push.start()
    # Both read the head of the branch before either may commit.
    while sum("/info/lfs/" in request for request in logged_in.requests) < 2:
        assert any(push.is_alive() for push in pushes)
        threading.Event().wait(0.02)
    logged_in.let_go.set()
    for push in pushes:
        push.join(60)
    wholes = [{path: file.read_bytes() for path, file in sent.items()} for sent in (one, two)]
    commits = logged_in.store.repos["model", repo].commits
    seen = [logged_in.store.files(repo, name) for name in commits]
    assert seen[0] == {} and len(seen) == 3 and all(commit in wholes for commit in seen[1:])
    assert seen[1] != seen[2]
    assert sum("/commit/" in request for request in logged_in.requests) == 3


def test_missing_write_access_is_one_line(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="writing to the Hub needs a token: log in with `hf auth login`"):
        ensure_repository("alice/mine")
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    for ask in (require_writable, ensure_repository):
        with pytest.raises(InputError, match=r"belongs to bob, who may not write to alice; use a token with write"):
            ask("alice/mine")
    hub.roles["hf_bob"] = "read"
    with pytest.raises(InputError, match=r"the token of bob is read-only; log in with `hf auth login`"):
        require_writable("bob/mine")
    # The Hub reveals the rights of a fine-grained token only when they are used.
    hub.roles["hf_bob"] = "fineGrained"
    assert require_writable("alice/mine") == "alice/mine"
    with pytest.raises(InputError, match=r"You don't have the rights.*use a token with write access, or a name in"):
        ensure_repository("alice/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_gone")
    with pytest.raises(InputError, match="the Hub rejects the token"):
        ensure_repository("bob/mine")
    for name in ("bob/mine@v1", "bob/a/b", "bob/-mine", "bob/a--b", ""):
        with pytest.raises(InputError, match="is not a valid repo id; write user/name"):
            require_writable(name)
    assert hub.store.repos == {}
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    repo = ensure_repository("alice/open")
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    with pytest.raises(InputError, match=r"the Hub refuses alice/open: You cannot write to alice/open; use a token"):
        push_files(files(tmp_path, a__json="{}"), repo, message="m")
    assert hub.store.files(repo) == {}


def test_a_member_may_push_to_an_organisation(logged_in: HubServer) -> None:
    logged_in.organisations["alice"] = {"lab": "write", "club": "read"}
    assert require_writable("lab/mine") == "lab/mine"
    with pytest.raises(InputError, match="may not write to club"):
        require_writable("club/mine")
    assert (
        ensure_repository("lab/mine", private=True) == "lab/mine"
        and logged_in.store.repos["model", "lab/mine"].private
    )


def test_an_invalid_card_is_refused_and_nothing_is_pushed(logged_in: HubServer, tmp_path: Path) -> None:
    repo = ensure_repository("alice/rules")
    with pytest.raises(InputError, match=r'the Hub refuses alice/rules: "license" must be one of'):
        push_files(files(tmp_path, README__md="---\nlicense: mine\n---\n", a__json="{}"), repo, message="m")
    assert logged_in.store.files(repo) == {}


def test_a_folder_without_a_model_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no saved model \(no config.json\)"):
        run_files(tmp_path)
    for name in ("config.json", "model.safetensors", ".secret.json", "events.out", "checkpoint-5/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path / "config.json", tmp_path / "_link.json")
    assert set(run_files(tmp_path)) == {"config.json", "model.safetensors"}
    (tmp_path / "model.pkl").touch()
    with pytest.raises(InputError, match=r"holds model.pkl, a pickle"):
        run_files(tmp_path)


def test_checkpoints_are_pushed_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow push of a checkpoint must not overwrite that of a later one."""
    second_started, pushed = threading.Event(), []

    def push(files: dict[str, Path], repo_id: str, *, message: str, **where: object) -> str:
        if message.endswith("10"):
            second_started.wait(1)
        else:
            second_started.set()
        pushed.append(message)
        return "commit"

    monkeypatch.setattr(publishing, "push_files", push)
    arguments = TrainingArguments(str(tmp_path), hub_strategy="every_save", hub_always_push=True, report_to=[])
    pusher = publishing.CheckpointPusher(arguments)
    for step in (10, 20):
        checkpoint = tmp_path / f"checkpoint-{step}"
        tiny_model().save_pretrained(checkpoint)
        assert pusher.wants_checkpoint
        pusher.push(checkpoint, "alice/run")
    pusher.wait_until_done()
    assert pushed == ["Training in progress, step 10", "Training in progress, step 20"]
