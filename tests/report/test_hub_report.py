"""A report as a static Space on the local Hub."""

from __future__ import annotations

import html
from pathlib import Path

import pytest
import yaml
from command_line import hf_ptr, the_line
from data_helpers import write_v21
from hub_server import HubServer
from leading_table import leading_table

from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.data.score_file import score_frame, write_scores
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import findings_written
from hf_ptr.errors import InputError
from hf_ptr.report.hub_report import report_page
from hf_ptr.report.page import write_report


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
    file = scores.with_name("report.html")
    file.write_text(page)
    assert hf_ptr("push", "report", file, "--repo-id", "alice/look").returncode == 0
    assert hub.store.files("alice/look", kind="space")["index.html"].decode() == page


@pytest.mark.parametrize("name", ["R & D", "it's", "plain/sub"])
@pytest.mark.parametrize("old", [False, True])
def test_a_page_names_no_folder_of_this_machine(
    tmp_path: Path, name: str, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are quoted for the shell and for HTML."""
    base = tmp_path / "private" / name
    base.mkdir(parents=True)
    table = leading_table(3, frames=30)
    data = write_v21(table, base / "mine") if old else write_table(table, base / "mine")
    frame = score_frame(table, score=1.0, weight=2.0, valid=True, scorer="made")
    late = Finding("action/lag", 1, 0, 29, 0.99, "fault", 6.0, "frames", "commands 6 frames late", "shift them")
    with findings_written(base / "deep.parquet", [late], {}, dataset=str(data)) as detection:
        write_scores(frame, base / "deep.parquet", dataset=str(data), detection=detection)
    monkeypatch.chdir(tmp_path)
    for source in (base / "deep.parquet", Path("private") / name / "deep.parquet"):
        text = html.unescape(report_page(source, tmp_path / "made").read_text())
        assert "private" not in text and str(tmp_path) not in text
        assert "weights=deep.parquet" in text and "hf-ptr init mine" in text
        assert ("hf-ptr convert lerobot mine mine_kept" in text) == old
    page = write_report(base / "deep.parquet", tmp_path / "report.html", dataset=data)
    with pytest.raises(InputError, match=r"report.html names the local path /.*; push the score file or run"):
        report_page(page, tmp_path / "made")


def test_a_push_without_a_token_is_refused_before_the_page_is_made(
    hub: HubServer, scores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_ptr.report.hub_report.report_page", lambda *_: pytest.fail("the page is made"))
    assert "needs a token" in the_line(hf_ptr("push", "report", scores, "--repo-id", "alice/look"))


def test_another_page_is_not_pushed(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    other = tmp_path / "other.html"
    other.write_text("<html></html>")
    for kind in ("report", "scores"):
        line = the_line(hf_ptr("push", kind, other, "--repo-id", "alice/other", "--results", "evaluation.json"))
        assert "--results is only for a run" in line
    line = the_line(hf_ptr("push", "report", other, "--repo-id", "alice/other"))
    assert f"{other} is not a report; write one with hf-ptr report" in line
    assert not any("repos/create" in request for request in hub.requests)
