"""
Makes docs/images/report.png: the top of a report, as a browser shows it. Needs Chromium.

    hf-ptr score data/g1_bottle --corruption misaligned --out scores.parquet
    python docs/make_report_image.py scores.parquet
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from hf_ptr.report import write_report

IMAGE = Path(__file__).resolve().parent / "images" / "report.png"
WIDTH, COLORS = 1200, 256


def screenshot(page: Path, image: Path, height: int) -> None:
    """Saves the top of a page as a PNG with a palette, which makes it four times smaller."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium is missing: apt-get install chromium")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{height}")
    subprocess.run([browser, *options, f"--screenshot={image}", page.as_uri()], check=True, capture_output=True)
    with Image.open(image) as shot:
        shot.convert("RGB").quantize(COLORS).save(image, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("scores", type=Path, help="score file of a dataset that is still in its folder")
    parser.add_argument("--height", type=int, default=1710, help="height of the image in pixels")
    options = parser.parse_args()
    IMAGE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(options.scores, Path(folder) / "report.html")
        screenshot(page, IMAGE, options.height)
