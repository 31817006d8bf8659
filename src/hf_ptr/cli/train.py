"""`hf-ptr train`: a training run from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see the recipes folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, over what the recipe says.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")] = False,
) -> None:
    """Post-train a policy as a recipe says; an interrupted run goes on where it stopped.

    On SIGTERM, as of a job that is preempted, it ends its step, saves a checkpoint and exits with 143; on Ctrl-C with
    130. Start the same command again.

    Examples:

        hf-ptr train recipes/vla/metaworld_state/ptr.yaml dataset=data/mt10

        hf-ptr train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle --dry-run

        hf-ptr train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle max_steps=500 output_dir=runs/short

        accelerate launch -m hf_ptr.train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle
    """
    if as_json and not dry_run:
        from hf_ptr.errors import InputError

        raise InputError("--json goes with --dry-run; what a run logged stands in its trainer_state.json")
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

    folder = run_recipe(recipe, overrides or [])
    typer.echo(f"{folder} is trained. Next: {evaluation_command(folder)}")
