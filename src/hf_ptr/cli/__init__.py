"""The command line: one file a sub-command, and one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated

import typer

from hf_ptr.cli import convert, demo, doctor, evaluate, push, record, report, score, train, validate
from hf_ptr.errors import InputError
from hf_ptr.utils.atomic_files import is_out_of_space

OK, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)

app = typer.Typer(
    name="hf-ptr",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def before_all(
    context: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but what is wrong; what is written is written.")
    ] = False,
) -> None:
    """Post-train robot policies on uneven demonstrations.

    Colours are left out where NO_COLOR is set, progress bars where the output is no terminal. Start with

        hf-ptr doctor

        hf-ptr score DATASET --fit

        hf-ptr report scores.parquet
    """
    from hf_ptr.utils.progress import without_bars

    if quiet or not sys.stderr.isatty():
        context.with_resource(without_bars())
    if quiet:
        # Progress bars and all that is said go there; errors, on the other stream, stay. Closed with the context.
        nowhere = context.with_resource(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        context.with_resource(redirect_stdout(nowhere))


app.add_typer(record.app, name="record")
app.add_typer(convert.app, name="convert")
app.command("validate")(validate.validate)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("score")(score.score)
app.command("report")(report.report)
app.command("push")(push.push)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 2 wrong input, 1 anything else, 130 interrupted."""
    try:
        code = app(None if arguments is None else list(arguments), prog_name="hf-ptr", standalone_mode=False)
    except InputError as error:
        sys.exit(_complain(str(error), WRONG_INPUT))
    except typer.Exit as error:
        # What Typer makes of an interrupt.
        sys.exit(_interrupted() if error.exit_code == INTERRUPTED else error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_interrupted())
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is not None:
            sys.exit(_complain(f"{usage()} Try --help.", WRONG_INPUT))
        if is_out_of_space(error):
            sys.exit(
                _complain(f"no space left to write ({error}); free some and start the command again", WRONG_INPUT)
            )
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            sys.exit(_complain(f"{error.filename} cannot be read or written ({error.strerror})", WRONG_INPUT))
        raise
    sys.exit(_interrupted() if code == INTERRUPTED else code if isinstance(code, int) else OK)


def _interrupted() -> int:
    return _complain(
        "interrupted; started again, train, score and demo go on where they were, the other commands begin anew",
        INTERRUPTED,
    )


def _complain(message: str, code: int) -> int:
    print(f"hf-ptr: {message}", file=sys.stderr)
    return code
