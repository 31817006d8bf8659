"""`hf-ptr train`: a training run from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see the recipes folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, over what the recipe says.")] = None,
) -> None:
    """Post-train a policy as a recipe says; an interrupted run goes on where it stopped.

    Examples:

        hf-ptr train recipes/vla/metaworld_state/ptr.yaml dataset=data/mt10

        hf-ptr train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle max_steps=500 output_dir=runs/short

        accelerate launch -m hf_ptr.train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle
    """
    from hf_ptr.training.run import evaluation_command, run_recipe

    folder = run_recipe(recipe, overrides or [])
    typer.echo(f"{folder} is trained. Next: {evaluation_command(folder)}")
