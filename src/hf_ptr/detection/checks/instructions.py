"""Instructions that are missing, placeholders or unreadable, and different spellings of one instruction."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import EVENT

# Words that say nothing, in any number and with any of `FILLERS` and `ALONE`.
PLACEHOLDERS = frozenset(
    re.findall(
        r"\w+",
        """asdf default fixme na nan nil none null placeholder tbd todo undefined unknown unlabeled unlabelled unnamed
        unspecified untitled xxx""",
    )
)
FILLERS = frozenset(re.findall(r"\w+", "a an by description for here language my name new no of text the this your"))
# Words that say nothing alone or with numbers; with others they may be the things of a task.
ALONE = frozenset(
    re.findall(
        r"\w+",
        """bar demo dummy episode example foo insert instruction instructions prompt recording sample string task tasks
        test testing""",
    )
)
# Signs of a text that was read with another encoding than it was written with.
MOJIBAKE = re.compile("\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\u00ef\u00bb\u00bf")
# `${`, `{name}`, `{}`, `<name>` and `$NAME`; `$5` is a price.
TEMPLATE = re.compile(r"\$\{|\{(?:[^\W\d][\w .-]*)?\}|<[^\W\d][\w /.-]*>|\$[^\W\d]\w+")
# Share of characters other than letters, digits and spaces in a text that is not language.
SYMBOLS = 0.5


def plain(text: str) -> str:
    """A text in lower case, with single spaces and without punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(char if char.isalnum() else " " for char in folded).split())


def same_text(texts: Sequence[str]) -> np.ndarray:
    """For each text the position of the first that differs by case, spaces and punctuation only, `(N,)` int64."""
    first: dict[str, int] = {}
    return np.array(
        [first.setdefault(plain(text) or text, number) for number, text in enumerate(texts)], dtype=np.int64
    )


def defect(text: str) -> str | None:
    """What is wrong with an instruction as a text, in words; None if nothing is."""
    words = plain(text).split()
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    if not text.strip():
        return "the instruction is empty"
    if MOJIBAKE.search(text) or any(
        unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs") and char not in "\n\r\t" for char in text
    ):
        return f"the instruction {shown!r} has unreadable characters"
    if TEMPLATE.search(text):
        return f"the instruction {shown!r} is a template that was not filled in"
    if not any(char.isalpha() for char in text) or (len(words) == 1 and len(words[0]) == 1 and words[0].isascii()):
        return f"the instruction {shown!r} has no words"
    if sum(not (char.isalnum() or char.isspace() or char in "_-.,'") for char in text) > SYMBOLS * len(text):
        return f"the instruction {shown!r} is mostly symbols"
    said = [word for word in words if not word.isdecimal()]
    empty = all(word in PLACEHOLDERS | FILLERS | ALONE for word in said)
    if "".join(said) in PLACEHOLDERS or (empty and any(word in PLACEHOLDERS for word in said)):
        return f"the instruction {shown!r} is a placeholder"
    if len(set(said)) == 1 and said[0] in ALONE:
        return f"the instruction {shown!r} is a placeholder"
    return None


class MissingInstruction(Check):
    """
    An instruction that is empty, a placeholder, or unreadable.

    Why it harms: a policy that follows language learns nothing from the instruction, or that an empty one means this
    task.

    Example: episodes of the first day have the instruction `default`; the others say what to do.

    What to do: write the instruction that the operator followed.

    Limits: where no episode has an instruction, the dataset is without language and nothing is reported.
    """

    name, unit = "language/missing", "instruction"
    rule = True
    action = "write the instruction that the operator followed"
    material = 1.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._defects = [defect(text) for text in context.signals.tasks]

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        used = {context.signals.tasks[episode.task] for episode in context.signals.episodes}
        defects = [defect(text) for text in used]
        return f"no episode has an instruction: {defects[0]}" if all(defects) else None

    def measure(self, view: View) -> Measurement:
        task = view.episode.task
        amount = 0.0 if self._defects[task] is None else 1.0
        return {EVENT: Candidates.events([0], [len(view.episode)], [amount], [float(task)])}

    def cause(self, found: Found) -> str:
        return str(self._defects[int(found.detail)])

    def plants(self) -> Sequence[Plant]:
        return [Plant("a placeholder for the instruction", self._replace, partial=False)]

    def _replace(self, episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        # A dataset may list instructions that no episode has.
        used = sorted({one.task for one in context.signals.episodes})
        bad = [task for task in used if self._defects[task] is not None]
        return replace(episode, task=int(rng.choice(bad))) if bad else None


class Spelling(Check):
    """
    An instruction that is another spelling of a more frequent one.

    Why it harms: it does not; but tools that count tasks by their text see two.

    Example: `pick up the cube` and `Pick up the cube.`

    What to do: use one spelling, unless the variety is intended.

    Limits: differences in case, spaces and punctuation only.
    """

    name, unit = "language/spelling", "instruction"
    severity = "note"
    rule = True
    action = "use one spelling, unless the variety is intended"
    material = 1.0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        signals = context.signals
        self._class = same_text(signals.tasks)
        counts = Counter(signals.tasks[episode.task] for episode in signals.episodes)
        self._usual: dict[int, int] = {}
        for task, text in enumerate(signals.tasks):
            usual = self._usual.setdefault(int(self._class[task]), task)
            if counts[text] > counts[signals.tasks[usual]]:
                self._usual[int(self._class[task])] = task

    def measure(self, view: View) -> Measurement:
        texts, task = self.context.signals.tasks, view.episode.task
        usual = self._usual[int(self._class[task])]
        amount = float(texts[task] != texts[usual])
        return {EVENT: Candidates.events([0], [len(view.episode)], [amount], [float(usual)])}

    def cause(self, found: Found) -> str:
        return f"another spelling of the instruction {self.context.signals.tasks[int(found.detail)]!r}"
