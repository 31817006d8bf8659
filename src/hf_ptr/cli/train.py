"""`hf-ptr train`: a training run from a recipe."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="Path of a YAML recipe; write one with hf-ptr init.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value pairs that override keys of the recipe.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print data, policy, steps and memory of the run, and write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: print the plan as JSON.")] = False,
) -> None:
    """Post-train a policy from a recipe. Rerun an interrupted command to resume it.

    hf-ptr init writes a recipe for a dataset; docs/recipe_keys.md explains every key.

    On SIGTERM, for example before a job is preempted, the run finishes its step, saves a checkpoint and exits with
    code 143; on Ctrl-C with code 130.

    Examples:

        hf-ptr train recipes/vla/metaworld_state/ptr.yaml dataset=data/mt10

        hf-ptr train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle --dry-run

        hf-ptr train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle max_steps=500 output_dir=runs/short

        accelerate launch -m hf_ptr.train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle
    """
    if as_json and not dry_run:
        from hf_ptr.errors import InputError

        raise InputError("--json needs --dry-run; add it, or read the logs of a run from its trainer_state.json")
    if dry_run and as_json:
        import json

        from hf_ptr.runs.dry_run import plan_recipe

        typer.echo(json.dumps(plan_recipe(recipe, overrides or []), indent=2, ensure_ascii=False))
        return
    if dry_run:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from hf_ptr.runs.dry_run import plan_recipe

        table = Table(show_header=False, box=None, pad_edge=False)
        for style in ("bold", None, None):
            table.add_column(style=style, overflow="fold")
        for section, lines in plan_recipe(recipe, overrides or []).items():
            for number, (name, value) in enumerate(lines.items()):
                table.add_row("" if number else section, name, escape(str(value)))
        Console().print(table)
        return
    from hf_ptr.runs.run import evaluation_command, run_recipe

    with exit_when_stopped():
        folder = run_recipe(recipe, overrides or [], say=typer.echo)
    typer.echo(f"{folder} is trained. Next: {evaluation_command(folder)}")


@contextmanager
def exit_when_stopped() -> Iterator[None]:
    """
    Ends the process if a signal stopped the run inside the context.

    Raises:
        KeyboardInterrupt: after Ctrl-C; the command line exits with code 130.
        SystemExit: after SIGTERM, with code 143. A scheduler would treat code 0 as a finished run, and start its
            dependents.
    """
    from hf_ptr.runs.run import RunStopped

    try:
        yield
    except RunStopped as stopped:
        if stopped.signal == signal.SIGINT:
            raise KeyboardInterrupt from stopped
        raise SystemExit(128 + stopped.signal) from stopped
