"""Command line: one module per command; `main` turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Annotated

import typer

from hf_ptr.cli import (
    apply,
    convert,
    demo,
    diff,
    doctor,
    evaluate,
    export,
    init,
    push,
    record,
    report,
    score,
    train,
    validate,
)
from hf_ptr.cli.episode_options import Commands
from hf_ptr.errors import InputError, nearest
from hf_ptr.utils.atomic_files import is_out_of_space
from hf_ptr.utils.data_warnings import data_warnings_printed

OK, FAILED, WRONG_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)

app = typer.Typer(
    name="hf-ptr",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        from hf_ptr._version import __version__

        typer.echo(f"hf-ptr {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only. Files are still written.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find bad demonstrations, and post-train robot policies on uneven ones.

    Set NO_COLOR to disable colours. Without a terminal, long work prints a line of progress every 10 seconds instead
    of a bar. To get started:

        hf-ptr doctor

        hf-ptr score DATASET

        hf-ptr report scores.parquet
    """
    from hf_ptr.utils.progress import command_lines, without_bars

    if quiet or not sys.stderr.isatty():
        context.with_resource(without_bars(lines=not quiet))
        context.with_resource(command_lines(str(context.invoked_subcommand)))
    if quiet:
        # Errors go to stderr and stay visible. The context closes the file.
        nowhere = context.with_resource(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        context.with_resource(redirect_stdout(nowhere))


# In the order of the help page.
app.command("score")(score.score)
app.command("report")(report.report)
app.command("apply")(apply.apply)
app.command("init")(init.init)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("diff")(diff.diff)
app.command("push")(push.push)
app.command("validate")(validate.validate)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.add_typer(record.app, name="record")
app.add_typer(convert.app, name="convert")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 2 invalid input, 1 other errors, 130 interrupted, 143 after SIGTERM.

    Warnings about data are one line each on stderr.
    """
    try:
        with data_warnings_printed(), _cleaning_up_after_sigterm():
            code = app(None if arguments is None else list(arguments), prog_name="hf-ptr", standalone_mode=False)
    except InputError as error:
        sys.exit(_complain(str(error), WRONG_INPUT))
    except typer.Exit as error:
        # Typer converts an interrupt to this exit code.
        sys.exit(_interrupted() if error.exit_code == INTERRUPTED else error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_interrupted())
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is not None:
            sys.exit(_complain(f"{_with_nearest(usage())} Try --help.", WRONG_INPUT))
        if is_out_of_space(error):
            sys.exit(_complain(f"no space left on the device ({error}); free some and rerun the command", WRONG_INPUT))
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            sys.exit(_complain(f"{error.filename} cannot be read or written ({error.strerror})", WRONG_INPUT))
        raise
    sys.exit(_interrupted() if code == INTERRUPTED else code if isinstance(code, int) else OK)


def _with_nearest(usage: str) -> str:
    """The message about a wrong option, with the value that was probably meant."""
    usage = usage.replace("Value error, ", "")
    wrong = re.search(r"'([^']*)' is not one of ((?:'[^']*'(?:, )?)+)", usage)
    return usage if wrong is None else usage + nearest(wrong[1], re.findall(r"'([^']*)'", wrong[2]))


@contextmanager
def _cleaning_up_after_sigterm() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, without partial files. Signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_ended("terminated", TERMINATED)))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted() -> int:
    return _ended("interrupted", INTERRUPTED)


def _ended(how: str, code: int) -> int:
    return _complain(f"{how}; rerun train, score or demo to resume, other commands start over", code)


def _complain(message: str, code: int) -> int:
    print(f"hf-ptr: {message}", file=sys.stderr)
    return code
