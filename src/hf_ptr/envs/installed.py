"""Packages of simulators: there, and in a version whose interface is known."""

from __future__ import annotations

import importlib.metadata

from packaging.specifiers import SpecifierSet

from hf_ptr.errors import InputError


def installed_version(package: str, accepted: str, title: str, install: str) -> str:
    """
    The version of an installed package.

    Args:
        package: its name on the index.
        accepted: as in a requirement, such as `">=1.0,<1.1"`.
        title: what it is called in messages.
        install: what to do where it is missing.

    Raises:
        InputError: it is not installed, or in another version.
    """
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"{title} is not installed; {install}") from error
    if version not in SpecifierSet(accepted):
        raise InputError(f"{title} is installed as {package} {version}, and {accepted} is needed; {install}")
    return version
