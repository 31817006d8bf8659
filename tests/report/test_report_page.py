"""The report in a real browser: no requests, no errors, fast, and usable without a mouse."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_helpers
from axe_playwright_python.sync_playwright import Axe
from data_helpers import coded_table
from playwright.sync_api import Browser, Page, sync_playwright

from hf_ptr.detection.check import Severity
from hf_ptr.detection.findings import Finding
from hf_ptr.report.inputs import ReportInput
from hf_ptr.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MANY, FEW, FRAMES = 2000, 60, 50
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "the report is tested in a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


def scores_of(episodes: int, seed: int = 0) -> pd.DataFrame:
    """Scores of episodes, a tenth of them bad, whose names are hostile."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(episodes), FRAMES)
    bad = rng.permutation(episodes)[: episodes // 10]
    z = np.where(np.isin(episode, bad), 0.2, 0.95) + 0.02 * rng.standard_normal(len(episode))
    return pd.DataFrame(
        {
            "index": np.arange(len(episode)),
            "episode_index": episode,
            "frame_index": np.tile(np.arange(FRAMES), episodes),
            "task_index": episode % 7,
            "source": np.where(episode % 2, HOSTILE, "kitchen"),
            "score": z,
            "weight": 0.25 + 3.75 / (1 + np.exp(-(z - 0.5) / 0.08)),
            "valid": np.tile(np.arange(FRAMES) < FRAMES - 16, episodes),
            "score_action": z,
            "failed_element": np.where(z < 0.5, HOSTILE, ""),
            "fault": np.where(np.isin(episode, bad), "noise", ""),
        }
    )


def finding(episode: int, severity: Severity) -> Finding:
    return Finding(HOSTILE, episode, 5, 9, 0.9, severity, 2.0, HOSTILE, HOSTILE, HOSTILE)


POWER = {
    "faulty_share": 0.2,
    "powers": [
        {"check": HOSTILE, "fault": HOSTILE, "part": part, "probability": value, "low": 0.6, "high": 1.0, "copies": 9}
        for part, value in ((False, 0.9), (True, None))
    ],
    "unseen": [{"fault": HOSTILE, "reason": HOSTILE, "dimensions": [HOSTILE] * 20}],
}


def write(folder: Path, episodes: int) -> Path:
    log = [{"step": step, "loss_action": 1.0 / step, "ess": 0.9} for step in range(1, 40)]
    scores = scores_of(episodes)
    bad = sorted(scores[scores.fault != ""].episode_index.unique().tolist())
    evidence = ReportInput(
        HOSTILE,
        scores,
        (0.25, 4.0),
        log=log,
        recipe={"dataset": HOSTILE, "seed": 0},
        findings=(*(finding(number, "fault") for number in bad), finding(0, "note")),
        power=POWER,
    )
    other = ReportInput("b", scores_of(episodes, seed=1), (0.25, 4.0), log=log, recipe={"seed": 1})
    return write_report(evidence, folder / f"{episodes}.html", compare=other)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("report"), MANY)


@pytest.fixture(scope="module")
def small_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every section, and few enough episodes for axe, which checks each point of a plot."""
    return write(tmp_path_factory.mktemp("report"), FEW)


class Opened:
    """A page with its requests and errors."""

    def __init__(self, browser: Browser, file: Path, **settings: Any):
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page: Page = browser.new_page(**settings)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(file.as_uri())

    @property
    def outside(self) -> list[str]:
        return [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]


SCREENS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}


@pytest.mark.parametrize("screen", SCREENS)
def test_no_requests_no_errors_and_accessible(browser: Browser, small_report: Path, screen: str) -> None:
    opened = Opened(browser, small_report, **SCREENS[screen])
    page = opened.page
    assert page.locator("#episodes tbody tr").count() == 50
    assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen]["viewport"]["width"]
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    grave = [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")]
    assert grave == []
    assert opened.outside == [] and opened.errors == []
    page.close()


def test_a_page_of_thousands_of_episodes_opens_quickly(browser: Browser, report: Path) -> None:
    opened = Opened(browser, report)
    timing = opened.page.evaluate(
        "performance.getEntriesByType('navigation').map(e => [e.domInteractive, e.loadEventEnd])[0]"
    )
    assert timing[1] < 3000, timing
    assert report.stat().st_size < 3e6
    opened.page.close()


def test_text_from_the_data_is_not_markup(browser: Browser, report: Path) -> None:
    opened = Opened(browser, report)
    page = opened.page
    assert page.title().startswith("<script>document.title")
    assert page.locator("img[src=x]").count() == 0
    page.locator("#find").fill("onerror")
    assert "of 201 episodes" in page.locator("#shown").inner_text()
    assert page.title().startswith("<script>") and opened.outside == [] and opened.errors == []
    page.close()


def test_episodes_are_sorted_found_chosen_and_exported_by_keyboard(browser: Browser, report: Path) -> None:
    page = Opened(browser, report).page

    def ids() -> list[int]:
        return [int(text) for text in page.locator("#episodes tbody th").all_inner_texts()]

    page.locator("button[data-key=id]").focus()
    page.keyboard.press("Enter")
    assert ids() == list(range(50))
    page.keyboard.press("Enter")
    assert ids() == list(range(1999, 1949, -1))
    assert page.locator("th:has(button[data-key=id])").get_attribute("aria-sort") == "descending"
    page.locator("#after").focus()
    page.keyboard.press("Space")
    assert ids()[0] == 1949
    assert "51 to 100 of 2000" in page.locator("#shown").inner_text()
    scores = scores_of(MANY)
    bad = sorted(scores[scores.fault != ""].episode_index.unique().tolist())
    assert page.locator("#list").input_value() == ", ".join(map(str, bad))
    page.locator("#threshold").fill("0")
    page.locator("#reset").focus()
    page.keyboard.press("Enter")
    assert page.locator("#list").input_value() == ""
    page.get_by_label("drop episode 1949", exact=True).focus()
    page.keyboard.press("Space")
    assert page.locator("#command").input_value().endswith('delete_episodes --operation.episode_indices "[1949]"')
    with page.expect_download() as download:
        page.locator("#download").focus()
        page.keyboard.press("Enter")
    assert Path(download.value.path()).read_text() == "1949\n"
    page.close()


def test_episodes_are_sorted_by_the_seconds_that_the_column_shows(browser: Browser, tmp_path: Path) -> None:
    """The shortest episode in frames lasts longest."""
    frames, step = [20, 30, 40], [0.4, 0.05, 0.1]
    table = coded_table(frames)
    seconds = np.concatenate([np.arange(length) * one for length, one in zip(frames, step, strict=True)])
    table = dataclasses.replace(table, seconds=seconds)
    scores = report_helpers.scores_of(table, {})
    report = write_report(ReportInput("a", scores, (0.25, 4.0)), tmp_path / "r.html", dataset=table)
    page = Opened(browser, report).page
    page.get_by_role("button", name="seconds", exact=True).click()
    assert page.locator("#episodes tbody td:nth-last-child(2)").all_inner_texts() == ["1.5", "4.0", "8.0"]
    assert page.locator("th:has(button[data-key=seconds])").get_attribute("aria-sort") == "ascending"
    page.close()
