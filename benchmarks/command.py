"""How a benchmark's command ends when what it was given is wrong: one line, and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable

from hf_ptr.errors import InputError


def run(name: str, main: Callable[[], None]) -> None:
    """Calls a command's `main`; `name` is that of its module, which the line begins with."""
    try:
        main()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
