"""
Build wheel and source distribution, and use the wheel without the checkout, in an empty environment of each Python.

    python tests/packaging/check_wheel.py --python python3.11 python3.12 python3.13

Each environment takes 1.5 GB while it is checked. The full form needs a package index.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Installed in earnest with the wheel; the others are resolved by pip without being installed.
SMALL_EXTRAS = ("metaworld", "robomimic", "diffusion", "pixels")
RESOLVED_EXTRAS = ("docs", "dev", "libero", "lerobot")
SEVERAL_MINUTES = 1800


def build(out: Path) -> tuple[Path, Path]:
    """The wheel and the source distribution; the wheel is built from the latter, which proves that to be complete."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", out], cwd=ROOT, check=True)
    (source,) = out.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=unpacked, check=True
        )
    (wheel,) = out.glob("*.whl")
    return wheel, source


def expected_files() -> set[str]:
    """The files of the package that git knows: modules and their data, templates of cards, recipes."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src", "model_cards", "recipes"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return {name.removeprefix("src/") if name.startswith("src/") else f"hf_ptr/{name}" for name in listed}


def wheel_files(wheel: Path) -> set[str]:
    """The files of a wheel, without those that describe it."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


class Environment:
    """
    An empty environment in a temporary folder.

    Args:
        python: an interpreter.
        folder: folder of the environment; commands run in `folder/work`.
    """

    def __init__(self, python: str, folder: Path) -> None:
        self.bin, self.work, self.log = folder / "env" / "bin", folder / "work", []
        subprocess.run([python, "-m", "venv", folder / "env"], check=True)
        self.work.mkdir()

    def run(self, *command: str) -> str:
        """Run a program of the environment; returns what it printed."""
        start = time.monotonic()
        # Nothing of the checkout may be found: neither its modules nor its recipes.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        found = subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SEVERAL_MINUTES,
            check=False,
        )
        self.log.append(
            {"command": " ".join(command), "exit": found.returncode, "seconds": round(time.monotonic() - start, 1)}
        )
        print(f"{self.log[-1]['seconds']:7.1f} s  {' '.join(command)}", flush=True)
        if found.returncode:
            raise SystemExit(
                f"{' '.join(command)} ended with {found.returncode}\n{found.stdout[-2000:]}{found.stderr[-4000:]}"
            )
        return found.stdout


def use(wheel: Path, python: str, folder: Path) -> list[dict[str, object]]:
    """Install the wheel in an empty environment and run its main commands there."""
    environment = Environment(python, folder)
    run = environment.run
    constraint = ("--constraint", str(ROOT / "constraints.txt"))
    run("pip", "install", "--quiet", *constraint, "torch")
    run("pip", "install", "--quiet", *constraint, f"{wheel}[{','.join(SMALL_EXTRAS)}]")
    run("pip", "check")
    place = run("python", "-c", "import hf_ptr; print(hf_ptr.__file__)").strip()
    assert place.startswith(str(folder)), f"hf_ptr was imported from {place}, not from the environment"
    assert run("hf-ptr", "--version").split()[-1] in wheel.name
    sizes = ("--episodes", "2", "--rollouts", "1", "--max-steps", "2", "--workers", "2")
    run("hf-ptr", "demo", "--out", "demo", *sizes)
    arms = json.loads((environment.work / "demo" / "summary.json").read_text())["arms"]
    assert {arm["episodes"] for arm in arms.values()} == {10}
    run("hf-ptr", "validate", "demo/data/clean")
    run("hf-ptr", "score", "demo/data/clean", "steps=2", "rounds=1")
    run("hf-ptr", "report", "scores.parquet")
    recipe = "recipes/vla/metaworld_state/calibrated.yaml"
    run(
        "hf-ptr",
        "train",
        recipe,
        "dataset=demo/data/clean",
        "max_steps=2",
        "output_dir=run",
        "score_settings=[steps=2]",
    )
    assert (environment.work / "run" / "model.safetensors").is_file()
    for extra in RESOLVED_EXTRAS:
        run("pip", "install", "--quiet", "--dry-run", f"{wheel}[{extra}]")
    return environment.log


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the checks; the results are written to `build/wheel.json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--python", nargs="+", default=["python3"], help="interpreters")
    parser.add_argument("--small", action="store_true", help="build and list the files only")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheel, source = build(folder)
        difference = wheel_files(wheel) ^ expected_files()
        assert not difference, f"in the wheel or in the repository only: {sorted(difference)}"
        print(f"{wheel.name}: {len(wheel_files(wheel))} files, {wheel.stat().st_size / 1e6:.1f} MB")
        if options.small:
            return
        tools = Environment(sys.executable, folder / "tools")
        tools.run("pip", "install", "--quiet", "twine")
        tools.run("twine", "check", "--strict", str(wheel), str(source))
        results = {}
        for python in options.python:
            print(python)
            results[python] = use(wheel, python, folder / "used")
            shutil.rmtree(folder / "used")
            (ROOT / "build").mkdir(exist_ok=True)
            (ROOT / "build" / "wheel.json").write_text(json.dumps(results, indent=2))
    print("written to build/wheel.json")


if __name__ == "__main__":
    main()
