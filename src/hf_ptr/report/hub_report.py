"""Pushing a report to the Hub as a static Space, which shows it to everyone who may open the Space."""

from __future__ import annotations

import html
import re
import tempfile
from pathlib import Path

import yaml

from hf_ptr._version import __version__
from hf_ptr.errors import InputError
from hf_ptr.hub.push import push_files
from hf_ptr.report.page import write_report
from hf_ptr.utils.atomic_files import write_text

PAGE, CARD = "index.html", "README.md"
# Text that every report has.
MARK = "hf-ptr report"
# Content of a page that is not its text.
NOT_TEXT = re.compile(r"<(style|script|svg)\b.*?</\1>|<[^>]*>", re.DOTALL)
# An absolute path of two or more parts, or one in the home folder.
LOCAL_PATH = re.compile(r"(?:^|(?<=[\s'\"=(\[,;]))(?:~?/[\w.][^\s/'\"]*/|~/|[A-Za-z]:[\\/])[^\s'\"]*")


def report_page(source: Path, folder: Path, dataset: str | None = None) -> Path:
    """
    The page to push: an HTML report as it is, or the report of a score file or run, without local paths.

    Args:
        source: an HTML file from `hf-ptr report`, a score file or the folder of a run.
        folder: a new folder for the page.
        dataset: path or repo id of the dataset that was scored; default: the recorded one.

    Returns:
        The HTML file.

    Raises:
        InputError: the source is none of these, an HTML file names a local path, or as
            [`write_report`][hf_ptr.report.page.write_report].
    """
    if source.suffix in (".html", ".htm"):
        text = source.read_text(encoding="utf-8", errors="replace") if source.is_file() else ""
        if MARK not in text:
            raise InputError(f"{source} is not a report; write one with hf-ptr report")
        found = LOCAL_PATH.search(html.unescape(NOT_TEXT.sub("\n", text)))
        if found is not None:
            raise InputError(
                f"{source} names the local path {found[0]}, which everyone would read; push the score file or run "
                "instead of the page, or edit the page"
            )
        return source
    return write_report(source, folder / PAGE, dataset=dataset, public=True)


def push_report(
    page: Path, repo_id: str, *, title: str, message: str, revision: str | None, license: str | None
) -> str:
    """
    Pushes a report to a static Space, in one commit.

    Args:
        page: the HTML file, from [`report_page`].
        repo_id: an existing Space.
        title: the title of the Space.
        message: the commit message.
        revision: the branch; None for the main branch.
        license: the licence id.

    Returns:
        The commit hash.

    Raises:
        InputError: the push fails. No part of it is visible then.
    """
    facts = {
        "title": title,
        "emoji": "🤖",
        "colorFrom": "gray",
        "colorTo": "blue",
        "sdk": "static",
        "app_file": PAGE,
        "pinned": False,
        "tags": ["hf-ptr", "robotics", "lerobot"],
        **({} if license is None else {"license": license}),
    }
    card = (
        f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\nWritten by hf-ptr {__version__}.\n"
    )
    with tempfile.TemporaryDirectory() as made:
        readme = Path(made) / CARD
        write_text(card, readme)
        return push_files({PAGE: page, CARD: readme}, repo_id, "space", message=message, revision=revision)
