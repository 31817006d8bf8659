"""The options `--episodes` and `--skip-episodes`, the same for every command that reads a dataset."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hf_ptr.errors import InputError

SKIP = "--skip-episodes"

Episodes = Annotated[
    str | None,
    typer.Option(
        "--episodes", help="Ids of the episodes to read: ids and ranges, such as 0:16,20.", show_default="all"
    ),
]
SkipEpisodes = Annotated[
    str | None, typer.Option(SKIP, help="Ids of episodes to leave out, even if they are damaged.", show_default="none")
]


def selected(episodes: str | None, skip: str | None) -> dict[str, Any]:
    """The values of the two options as the keyword arguments of `load_dataset` and `validate_dataset`."""
    from hf_ptr.data.episode_ids import parse_episodes

    return {"episodes": parse_episodes(episodes, "--episodes"), "skip": parse_episodes(skip, SKIP) or ()}


class Commands(TyperGroup):
    """Commands whose errors about single episodes end with the option that leaves these out, where there is one."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that `ctx` names."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            if not error.skip:
                raise
            command = self.commands.get(ctx.invoked_subcommand or "")
            if command is not None and any(SKIP in parameter.opts for parameter in command.params):
                raise error.with_option(f"{SKIP} {{}}") from error
            if ctx.invoked_subcommand == "train":
                raise error.with_option('skip_episodes: "{}"') from error
            raise
