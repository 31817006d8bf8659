"""
Findings next to a score file: `findings.parquet`, the same rows as `findings.json`, the power card as `power.json`.

Next to `scores.parquet` the files have exactly these names. Next to another score file, `NAME.parquet`, they are
`NAME.findings.parquet`, `NAME.findings.json` and `NAME.power.json`: two score files of a folder keep their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_ptr.data.lerobot.columns import ColumnFile, open_columns
from hf_ptr.data.score_file import SCORES_FILE
from hf_ptr.detection.findings import Finding, flagged_episodes
from hf_ptr.errors import InputError, first_line
from hf_ptr.utils.atomic_files import atomic_write

FINDINGS_FILE, FINDINGS_JSON, POWER_FILE = "findings.parquet", "findings.json", "power.json"
# Key of the id in the metadata of a score file and of its findings: files of different fits have different ids.
DETECTION = "detection"
# The column that files of other tools lack, whose findings nobody accepted.
ACCEPTED_AS = "accepted_as"
SEVERITIES = ("fault", "note", "accepted")


@dataclass(frozen=True)
class Column:
    """
    One column of a findings file.

    Attributes:
        name: name in the file, and in the JSON objects.
        kind: type of the values.
        meaning: description for users.
    """

    name: str
    kind: Literal["text", "integer", "number"]
    meaning: str


COLUMNS = (
    Column("check", "text", "name of the check, for example `action/lag`"),
    Column("episode_index", "integer", "episode in the dataset"),
    Column("first_frame", "integer", "first frame, counted from the start of the episode; 0 for a whole episode"),
    Column("last_frame", "integer", "last frame, included; the length of the episode minus 1 for a whole episode"),
    Column("probability", "number", "probability that this is a fault and not chance, 0 to 1"),
    Column("severity", "text", "`fault`, `note` for information that is not a fault, or `accepted`"),
    Column("amount", "number", "size of the fault, in `unit`"),
    Column("unit", "text", "unit of the amount, for example `frames`"),
    Column("cause", "text", "likely cause in words"),
    Column("action", "text", "suggested action"),
    Column(ACCEPTED_AS, "text", "severity that an accepted finding would have, `fault` or `note`; otherwise empty"),
)
_TYPES = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}


@dataclass(frozen=True)
class FindingsFiles:
    """
    The files next to a score file.

    Attributes:
        findings: the table of findings, a parquet.
        rows: the same rows as JSON.
        power: the power card and the flagged episodes, as JSON.
    """

    findings: Path
    rows: Path
    power: Path

    @classmethod
    def beside(cls, scores: Path) -> FindingsFiles:
        """
        Those of a score file.

        Raises:
            InputError: the score file has the name of a findings file.
        """
        if scores.name == FINDINGS_FILE or scores.name.endswith(f".{FINDINGS_FILE}"):
            raise InputError(f"{scores} is the name of a findings file; name the score file otherwise")
        prefix = "" if scores.name == SCORES_FILE else f"{scores.stem}."
        return cls(*(scores.with_name(prefix + name) for name in (FINDINGS_FILE, FINDINGS_JSON, POWER_FILE)))

    def all(self) -> tuple[Path, Path, Path]:
        """The three files."""
        return self.findings, self.rows, self.power


def holds_findings(path: Path) -> bool:
    """
    Whether a parquet holds findings and no scores.

    Raises:
        InputError: the file is damaged.
    """
    with open_columns(path) as columns:
        return "check" in columns.names and "weight" not in columns.names


def files_of_scoring(path: Path) -> tuple[Path, ...]:
    """The score file and its three files of findings, of which `path` is the score file or the findings parquet."""
    scores = path
    if path.name == FINDINGS_FILE:
        scores = path.with_name(SCORES_FILE)
    elif path.name.endswith(f".{FINDINGS_FILE}"):
        scores = path.with_name(f"{path.name.removesuffix(f'.{FINDINGS_FILE}')}.parquet")
    return scores, *FindingsFiles.beside(scores).all()


def detection_id(findings: Sequence[Finding], power: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """
    Identifies a detection, for the metadata of its files: 16 hexadecimal digits.

    Args:
        findings: the findings.
        power: the power card.
        made: how the detection was made: the dataset and the settings.
    """
    content = json.dumps([[asdict(found) for found in findings], power, made], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@contextmanager
def findings_written(
    scores: Path, findings: Sequence[Finding], power: Mapping[str, Any], **made: Any
) -> Iterator[str]:
    """
    Writes the files of the findings around the writing of their score file: all four appear, or none.

    ```python
    with findings_written(out, findings, power, dataset="data/mine") as detection:
        write_scores(scores, out, detection=detection)
    ```

    Args:
        scores: the score file, which the block writes.
        findings: the findings.
        power: the power card, JSON values.
        made: JSON values that describe how the detection was made, for the metadata of the findings.

    Yields:
        The id of the detection, for the metadata of the score file.

    Raises:
        InputError: the amount or the probability of a finding is not a finite number.
    """
    for found in findings:
        if not np.isfinite([found.amount, found.probability]).all():
            raise InputError(
                f"check {found.check!r} gives episode {found.episode_index} the amount {found.amount} and the "
                f"probability {found.probability}; both must be finite: repair or uninstall the check"
            )
    files, mark = FindingsFiles.beside(scores), detection_id(findings, power, made)
    rows = [asdict(found) for found in findings]
    schema = pa.schema([(column.name, _TYPES[column.kind]) for column in COLUMNS])
    # The key under which pandas keeps `attrs`.
    meta = {b"PANDAS_ATTRS": json.dumps({**made, DETECTION: mark}).encode()}
    with ExitStack() as stack:
        table, as_json, card = (stack.enter_context(atomic_write(path)) for path in files.all())
        pq.write_table(pa.Table.from_pylist(rows, schema.with_metadata(meta)), table)
        _write_json(rows, as_json)
        _write_json({"flagged": flagged_episodes(findings), **power}, card)
        yield mark


def remove_findings(scores: Path) -> None:
    """
    Removes the findings of a score file that has been replaced by scores without findings.

    Files that are not from a detection are left alone.
    """
    files = FindingsFiles.beside(scores)
    try:
        ours = files.findings.is_file() and DETECTION in attributes(files.findings)
    except InputError:
        ours = False
    if ours:
        for path in files.all():
            path.unlink(missing_ok=True)


def read_findings(path: str | Path) -> tuple[Finding, ...]:
    """
    A findings file, checked.

    Args:
        path: a parquet with the columns of [`COLUMNS`]; `accepted_as` may be missing and is then empty.

    Returns:
        The findings, in the order of the file.

    Raises:
        InputError: the file is missing or damaged, lacks a column, or has a value that is out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"findings file {path} does not exist; write one with hf-ptr score")
    with open_columns(path) as file:
        columns = [_values(file, column) for column in COLUMNS]
    findings = tuple(Finding(*row) for row in zip(*columns, strict=True))
    for row, found in enumerate(findings):
        wrong = _wrong(found)
        if wrong:
            raise InputError(f"{path}, row {row}: {wrong}")
    return findings


class MissingFindings(InputError):
    """The findings of a score file are missing, or belong to other scores."""


@dataclass(frozen=True)
class FoundBeside:
    """
    The findings of a score file.

    Attributes:
        findings: the findings.
        power: the power card, from [`read_power`].
        made: how the detection was made, from [`attributes`].
    """

    findings: tuple[Finding, ...]
    power: dict[str, Any]
    made: dict[str, Any]


def read_beside(scores: Path, attrs: Mapping[str, Any]) -> FoundBeside | None:
    """
    The findings that were written with a score file.

    Args:
        scores: the score file.
        attrs: its metadata, the `attrs` of its rows.

    Returns:
        The findings; None for scores that were made without.

    Raises:
        MissingFindings: the files are missing or of other scores.
        InputError: a file is damaged.
    """
    mark = attrs.get(DETECTION)
    if mark is None:
        return None
    files = FindingsFiles.beside(scores)
    made = attributes(files.findings) if files.findings.is_file() else {}
    if made.get(DETECTION) != mark:
        state = "belong to other scores" if made else "are missing"
        raise MissingFindings(f"{files.findings} {state}; score the data again")
    return FoundBeside(read_findings(files.findings), read_power(files.power), made)


def read_power(path: str | Path) -> dict[str, Any]:
    """
    A power card with the flagged episodes, as [`findings_written`] writes it.

    Raises:
        InputError: the file is missing or damaged, or a value is missing or out of range.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); score the data again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged; score the data again")
    wrong = _wrong_power(content)
    if wrong:
        raise InputError(f"{path}: {wrong}; score the data again")
    return content


def _wrong_power(content: Mapping[str, Any]) -> str:
    """What is wrong in a power card, or ""; a card without probabilities has neither `powers` nor `unseen`."""
    if not _are(content.get("flagged", []), lambda one: isinstance(one, int)):
        return "flagged is not a list of integers"
    if "powers" not in content and "unseen" not in content:
        return ""
    if not _is_share(content.get("faulty_share")):
        return "faulty_share is not a number between 0 and 1"
    for name, is_right in (("powers", _is_power), ("unseen", _is_unseen)):
        rows = content.get(name)
        if not isinstance(rows, list):
            return f"{name} is not a list"
        for row, one in enumerate(rows):
            if not (isinstance(one, dict) and is_right(one)):
                return f"{name}, row {row}, lacks a value or has one out of range"
    return ""


def _is_power(row: Mapping[str, Any]) -> bool:
    return (
        _are([row.get("check"), row.get("fault")], lambda one: isinstance(one, str))
        and isinstance(row.get("part"), bool)
        and ("probability" in row and (row["probability"] is None or _is_share(row["probability"])))
        and _is_share(row.get("low"))
        and _is_share(row.get("high"))
    )


def _is_unseen(row: Mapping[str, Any]) -> bool:
    return _are([row.get("fault"), row.get("reason")], lambda one: isinstance(one, str)) and _are(
        row.get("dimensions"), lambda one: isinstance(one, str)
    )


def _are(values: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(is_right(one) for one in values)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def attributes(path: Path) -> dict[str, Any]:
    """
    How the detection of a findings file was made, and its id (`DETECTION`); empty where the file does not say.

    Raises:
        InputError: the file is damaged.
    """
    with open_columns(path) as file:
        try:
            found = json.loads(file.metadata.get(b"PANDAS_ATTRS", b"{}"))
        except ValueError:
            return {}
    return found if isinstance(found, dict) else {}


def _values(file: ColumnFile, column: Column) -> list[Any]:
    if column.kind == "integer":
        return file.integers(column.name).tolist()
    if column.kind == "number":
        return file.numbers(column.name, 1)[:, 0].astype(np.float64).tolist()
    if column.name == ACCEPTED_AS and ACCEPTED_AS not in file.names:
        return [""] * len(file.texts("check"))
    texts = file.texts(column.name)
    wrong = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise InputError(f"{file.path}: column {column.name!r} is {texts[wrong[0]]!r} in row {wrong[0]}, not text")
    return texts


def _wrong(found: Finding) -> str:
    """What is out of range in a finding and how to fix it, or ""."""
    if found.severity not in SEVERITIES:
        return f"severity is {found.severity!r}; write fault, note or accepted"
    if found.accepted_as not in ("", "fault", "note"):
        return f"accepted_as is {found.accepted_as!r}; write fault, note or nothing"
    if not 0.0 <= found.probability <= 1.0:
        return f"probability is {found.probability}; it must be between 0 and 1"
    if not np.isfinite(found.amount):
        return f"amount is {found.amount}; it must be finite"
    if not found.check:
        return "check is empty; write its name"
    if found.episode_index < 0:
        return f"episode_index is {found.episode_index}; it must be at least 0"
    if not 0 <= found.first_frame <= found.last_frame:
        return f"frames {found.first_frame} to {found.last_frame} are not a range; the first must be 0 or more"
    return ""


def _write_json(content: Any, path: Path) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")
