"""Training that pushes: a run's way to the Hub and back, over a real socket."""

from __future__ import annotations

from pathlib import Path

from hub_server import HubServer


def test_it(metaworld_dataset: Path, tmp_path: Path, logged_in: HubServer) -> None:
    import sys

    sys.path.insert(0, "tests")
    from test_trainer import make

    logged_in.store.create("model", "x/y", False)
    trainer = make(
        metaworld_dataset,
        tmp_path / "pol",
        push_to_hub=True,
        hub_strategy="checkpoint",
        save_strategy="steps",
        save_steps=3,
        hub_private_repo=True,
    )
    trainer.train()
    trainer.push_to_hub(license="mit")
    repo = logged_in.store.repos["model", "alice/pol"]
    print(repo.messages, repo.private)
    print(sorted(logged_in.store.files("alice/pol")))
    print(logged_in.store.files("alice/pol")["README.md"].decode())
    print(list((tmp_path / "pol").iterdir()))
    again = make(metaworld_dataset, tmp_path / "again", max_steps=8)
    again.train(resume_from_checkpoint="alice/pol")
    print(again.state.global_step)
