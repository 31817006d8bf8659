"""A report as a static Space on the local Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from command_line import hf_ptr, the_line
from hub_server import HubServer
from leading_table import leading_table

from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.data.score_file import score_frame, write_scores


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    table = leading_table(3, frames=30)
    data = write_table(table, tmp_path / "mine")
    frame = score_frame(table, score=1.0, weight=2.0, valid=True, scorer="made")
    return write_scores(frame, tmp_path / "scores.parquet", dataset=str(data))


def test_a_pushed_report_is_a_static_space_without_local_paths(
    hub: HubServer, scores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    done = hf_ptr("push", "report", scores, "--repo-id", "alice/look", "--license", "apache-2.0")
    assert done.returncode == 0, done.stderr
    assert "Open it: https://huggingface.co/spaces/alice/look" in done.stdout
    there = hub.store.files("alice/look", kind="space")
    assert set(there) == {"README.md", "index.html"}
    front = yaml.safe_load(there["README.md"].decode().split("---")[1])
    assert (front["sdk"], front["app_file"], front["license"]) == ("static", "index.html", "apache-2.0")
    page = there["index.html"].decode()
    assert "hf-ptr report" in page and "mine" in page and str(scores.parent) not in page
    # The same page as a file, and again into the same Space.
    html = scores.with_name("report.html")
    html.write_text(page)
    assert hf_ptr("push", "report", html, "--repo-id", "alice/look").returncode == 0
    assert hub.store.files("alice/look", kind="space")["index.html"].decode() == page


def test_another_page_is_not_pushed(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    other = tmp_path / "other.html"
    other.write_text("<html></html>")
    line = the_line(hf_ptr("push", "report", other, "--repo-id", "alice/other"))
    assert f"{other} is not a report; write one with hf-ptr report" in line
    assert not any("repos/create" in request for request in hub.requests)
