"""The scripts that draw the images of the documentation run."""

from __future__ import annotations

import runpy
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_schematic_is_drawn(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "make_idea_image.py"))["idea"](tmp_path / "idea.png")
    with Image.open(tmp_path / "idea.png") as drawn, Image.open(DOCS / "images" / "idea.png") as committed:
        assert drawn.size == committed.size and len(set(drawn.convert("L").getdata())) > 50


def test_a_page_is_photographed(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<body style='margin:0;background:#2b6cb0'>")
    runpy.run_path(str(DOCS / "make_report_image.py"))["screenshot"](page, tmp_path / "page.png", 200)
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (1200, 200) and image.convert("RGB").getpixel((600, 100)) == (43, 108, 176)
