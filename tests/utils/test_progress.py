"""Progress of long work: lines at intervals where stderr is no terminal, nothing with --quiet."""

from __future__ import annotations

import os
import time

import pytest

from hf_ptr.utils import progress
from hf_ptr.utils.progress import command_lines, progress_bar, without_bars


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_AFTER", 0.05)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.05)


def work(*, shown: bool = True) -> None:
    with progress_bar(shown) as bar:
        for number in bar.track(range(4), description="fitting"):
            if number == 1:
                time.sleep(0.3)


def test_a_long_job_prints_lines_without_a_terminal(capsys: pytest.CaptureFixture) -> None:
    with without_bars():
        work()
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert 2 <= len(lines) <= 8 and "fitting: 1 of 4 after 0:00 min" in lines, lines
    time.sleep(0.2)
    assert capsys.readouterr().err == "", "the thread must end with the work"


def test_the_lines_of_tracked_jobs_count_them(capsys: pytest.CaptureFixture) -> None:
    with progress_bar() as bar:
        for _ in bar.track(range(3), description="reading"):
            time.sleep(0.08)
    assert "reading: 1 of 3" in capsys.readouterr().err


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_AFTER", 30.0)
    work()
    assert capsys.readouterr().err == ""


def test_a_command_is_not_silent_before_between_and_after_its_bars(capsys: pytest.CaptureFixture) -> None:
    with without_bars(), command_lines("score"):
        time.sleep(0.15)
        before = capsys.readouterr().err.splitlines()
        work()
        inside = capsys.readouterr().err.splitlines()
        time.sleep(0.15)
        after = capsys.readouterr().err.splitlines()
    assert before and all(line.startswith("hf-ptr score: loading libraries and data after 0:0") for line in before)
    assert after and all(line.startswith("hf-ptr score: still working after 0:0") for line in after), after
    assert any(line.startswith("fitting: 1 of 4") for line in inside), inside


def test_work_that_starts_after_a_line_has_lines_of_its_own(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intervals have their real ratio; the work starts just after a line and ends before the next."""
    monkeypatch.setattr(progress, "FIRST_AFTER", 0.3)
    monkeypatch.setattr(progress, "LINE_EVERY", 1.5)
    with without_bars(), command_lines("score"):
        time.sleep(0.5)
        with progress_bar() as bar:
            for _ in bar.track(range(2), description="fitting"):
                time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["hf-ptr score", "fitting"], lines


def test_short_work_does_not_delay_the_line_of_a_command(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_AFTER", 0.2)
    with without_bars(), command_lines("score"):
        for _ in range(5):
            with progress_bar() as bar:
                for _ in bar.track(range(1), description="short"):
                    time.sleep(0.1)
    assert capsys.readouterr().err != ""


def test_quiet_and_hidden_work_print_nothing(capsys: pytest.CaptureFixture) -> None:
    with without_bars(lines=False):
        work()
    work(shown=False)
    assert capsys.readouterr().err == ""
    assert progress.QUIET not in os.environ and progress.NO_BARS not in os.environ
