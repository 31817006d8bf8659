"""Tables in Markdown, and the pages of the docs that contain them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ptr.utils.atomic_files import write_text


def markdown_table(rows: Sequence[Sequence[Any]]) -> str:
    """A table of the rows, the first of which is its head."""
    head, *body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def fill_page(page: Path, parts: Mapping[str, str]) -> None:
    """Replaces the text between `<!-- begin: NAME -->` and `<!-- end: NAME -->` in a page."""
    text = page.read_text(encoding="utf-8")
    for name, content in parts.items():
        markers = re.compile(rf"(<!-- begin: {re.escape(name)} -->\n).*?(<!-- end: {re.escape(name)} -->)", re.DOTALL)
        text = markers.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)
    write_text(text, page)
