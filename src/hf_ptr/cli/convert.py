"""`hf-ptr convert`: convert datasets of other formats to LeRobotDataset v3.0."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_ptr.cli.episode_options import Commands, Episodes, SkipEpisodes, selected

app = typer.Typer(cls=Commands, no_args_is_help=True)

Out = Annotated[Path, typer.Argument(help="New folder. It must not exist or must be empty.")]


@app.callback()
def convert() -> None:
    """Convert a dataset to LeRobotDataset v3.0.

    Example:

        hf-ptr convert lerobot data/g1_bottle data/g1_bottle_v30
    """


@app.command()
def lerobot(
    folder: Annotated[Path, typer.Argument(help="Folder of a LeRobotDataset v2.0, v2.1 or v3.0.")],
    out: Out,
    episodes: Episodes = None,
    skip_episodes: SkipEpisodes = None,
    even_times: Annotated[
        bool,
        typer.Option("--even-times", help="Replace time stamps by frame / fps, for any video decoder of LeRobot."),
    ] = False,
) -> None:
    """Write a copy that LeRobot reads. Values stay bit-identical, and videos are copied without re-encoding.

    Time stamps count from the first frame of each episode, and video frames get the times of their rows. If episodes
    are left out, the others are numbered from 0. A dataset v3.0 is converted only if LeRobot refuses rows of it.

    Where the clock of the recording deviates from its frame rate, LeRobot reads the copy with PyAV only. With
    torchcodec, its default where FFmpeg is installed, it needs --even-times. Nothing but the time stamps differs,
    except that videos without one frame for each row are encoded again.

    Examples:

        hf-ptr convert lerobot data/g1_bottle data/g1_bottle_v30

        hf-ptr convert lerobot data/drifting data/drifting_v30 --even-times
    """
    from hf_ptr.data.lerobot.convert import convert_lerobot
    from hf_ptr.utils.progress import progress_bar

    with progress_bar() as progress:
        made = convert_lerobot(
            folder,
            out,
            **selected(episodes, skip_episodes),
            even_times=even_times,
            progress=lambda what, jobs: progress.track(jobs, description=what),
        )
    _describe(made)


@app.command()
def robomimic(
    file: Annotated[Path, typer.Argument(help="robomimic HDF5 file with observations.")],
    out: Out,
    state: Annotated[
        str | None,
        typer.Option(
            help="Vectors that form the state, comma-separated.",
            show_default="end effector and gripper, as robosuite, LIBERO or Isaac Lab name them",
        ),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second.", show_default="from the file")] = None,
    task: Annotated[str | None, typer.Option(help="Instruction.", show_default="from the file")] = None,
) -> None:
    """Convert a robomimic HDF5 file. Its images are encoded as videos.

    Examples:

        hf-ptr convert robomimic can/image.hdf5 data/can --task "put the can into the bin"

        hf-ptr convert robomimic door.hdf5 data/door --state arm_qpos,gripper_qpos --fps 20
    """
    from hf_ptr.data.lerobot.convert_robomimic import convert_robomimic
    from hf_ptr.utils.progress import progress_bar

    parts = [name.strip() for name in (state or "").split(",") if name.strip()]
    with progress_bar() as progress:
        made = convert_robomimic(
            file,
            out,
            state=parts,
            fps=fps,
            task=task,
            progress=lambda what, jobs: progress.track(jobs, description=what),
        )
    _describe(made)


def _describe(folder: Path) -> None:
    import json

    from hf_ptr.utils.listing import counted

    info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
    typer.echo(
        f"{folder}: {counted(info['total_episodes'], 'episode')}, {counted(info['total_frames'], 'frame')}, "
        f"{counted(info['total_tasks'], 'task')}. Next: hf-ptr validate {folder}"
    )
