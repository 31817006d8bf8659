"""Files outside `src` that the wheel contains: recipes and templates of cards."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def package_folder(name: str) -> Path:
    """The folder `name`, for example `recipes`: inside the installed package, or next to `src` in a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parents[1] / name


def recipe_file(path: Path) -> Path:
    """The path of a recipe; where `recipes/…` is not in the working folder, the packaged file of that name."""
    packaged = package_folder("recipes") / Path(*path.parts[1:])
    return packaged if path.parts[:1] == ("recipes",) and not path.exists() and packaged.is_file() else path
