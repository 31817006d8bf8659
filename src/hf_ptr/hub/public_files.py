"""What is pushed names no folder of the machine that pushes: of a path there only its name is told."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from hf_ptr.errors import InputError

# Of a tokenizer, where a text that begins with a slash is a token.
VOCABULARIES = ("tokenizer.json", "vocab.json")


def without_places(content: Any) -> Any:
    """The content of a JSON or YAML file, with the name in place of each absolute path."""
    if isinstance(content, dict):
        return {key: without_places(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_places(value) for value in content]
    if isinstance(content, str) and os.path.isabs(os.path.expanduser(content)):
        return Path(content).name or content
    return content


def public_files(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """
    Writes copies of those files that name absolute paths, without these.

    Args:
        files: by path in the repository.
        folder: a new one, for the copies.

    Returns:
        The files to push, by path in the repository: copies, and whatever needs none as it is.

    Raises:
        InputError: when a JSON or YAML file is damaged.
    """
    public = dict(files)
    for number, (name, path) in enumerate(files.items()):
        kind = PurePosixPath(name).suffix
        if kind not in (".json", ".yaml") or PurePosixPath(name).name in VOCABULARIES:
            continue
        try:
            content = (json.loads if kind == ".json" else yaml.safe_load)(path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(f"{name} is damaged ({type(error).__name__}), and is not pushed; train again") from error
        told = without_places(content)
        if told == content:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        public[name] = folder / str(number)
        as_json = kind == ".json"
        text = json.dumps(told, indent=2) + "\n" if as_json else yaml.safe_dump(told, allow_unicode=True)
        public[name].write_text(text, encoding="utf-8")
    return public
