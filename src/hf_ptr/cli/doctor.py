"""`hf-ptr doctor`: report installed packages, working features and how to install missing ones."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Annotated, Any

import typer

NEEDED = ("torch", "transformers", "accelerate", "peft", "datasets", "huggingface_hub", "safetensors", "av")
OPTIONAL = {
    "metaworld": "simulated demonstrations and rollouts: pip install 'hf-ptr[metaworld]'",
    "PyOpenGL": "rendered images from the simulator: pip install 'hf-ptr[pixels]'",
    "hf-libero": "rollouts in LIBERO, on Linux: pip install 'hf-ptr[libero]'",
    "lerobot": "LeRobot's own tools and policies: pip install lerobot (Python 3.12 or newer)",
}
# Video codecs of public datasets.
CODECS = ("h264", "hevc", "av1", "libdav1d", "libsvtav1")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON to standard output.")] = False,
) -> None:
    """Check versions, devices, rendering, video codecs and the Hub login.

    Prints how to install whatever is missing. Nothing is sent over the network: the Hub login is read from the token
    stored on this machine.

    Examples:

        hf-ptr doctor

        hf-ptr doctor --json > doctor.json
    """
    import json

    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    missing = [name for name, version in found["packages"].items() if version is None]
    if missing:
        typer.echo(f"missing: {', '.join(missing)}; reinstall with pip install hf-ptr", err=True)
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Collect `system packages optional devices rendering codecs hub` as plain values."""
    import av
    import torch
    from huggingface_hub import constants, get_token

    from hf_ptr._version import __version__

    devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "system": {
            "hf-ptr": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "packages": {name: _version(name) for name in NEEDED},
        "optional": {name: _version(name) for name in OPTIONAL},
        "devices": [*devices, "cpu"],
        "rendering": _rendering(),
        "codecs": {name: name in av.codecs_available for name in CODECS},
        "hub": {"endpoint": constants.ENDPOINT, "token": get_token() is not None, "offline": constants.HF_HUB_OFFLINE},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in found["system"].items():
        table.add_row(name, str(value))
    for name, version in found["packages"].items():
        table.add_row(name, version or "[red]missing[/red]")
    for name, version in found["optional"].items():
        table.add_row(name, version or f"not installed; {escape(OPTIONAL[name])}")
    table.add_row("devices", ", ".join(found["devices"]))
    table.add_row("rendering", escape(found["rendering"]))
    table.add_row("video codecs", ", ".join(name for name, there in found["codecs"].items() if there) or "none")
    hub = found["hub"]
    login = "a token is stored" if hub["token"] else "no token; run hf auth login to push"
    table.add_row("Hub", f"{hub['endpoint']}, {login}" + (", offline" if hub["offline"] else ""))
    Console().print(table)


def _rendering() -> str:
    """Working rendering backend, probed in a separate process, or the error message."""
    from hf_ptr.envs.rendering import select_backend
    from hf_ptr.errors import InputError

    if _version("mujoco") is None:
        return "no simulator: pip install 'hf-ptr[metaworld]'"
    try:
        return select_backend()
    except InputError as error:
        return str(error)
