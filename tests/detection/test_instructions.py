"""Instructions that say nothing, and several spellings of one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.detection.check import Check, Context
from hf_ptr.detection.checks.instructions import MissingInstruction, Spelling, defect
from hf_ptr.detection.response import ResponseModel
from hf_ptr.detection.signals import Signals
from hf_ptr.detection.windows import EVENT


def with_tasks(tasks: list[str]) -> Context:
    """A dataset with one episode for each instruction."""
    sound = Signals.of_table(leading_table(len(tasks)), "observation.state", "action")
    episodes = tuple(replace(episode, task=number) for number, episode in enumerate(sound.episodes))
    signals = replace(sound, tasks=tuple(tasks), episodes=episodes)
    return Context(signals, ResponseModel(signals))


def found(context: Context, kind: type[Check]) -> list[int]:
    check = kind(context)
    return [
        episode.position
        for episode in context.signals.episodes
        if (check.measure(context.view(episode))[EVENT].amount >= check.material).any()
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("task", "placeholder"),
        ("Task 3", "placeholder"),
        ("DEFAULT", "placeholder"),
        ("TODO: description here", "placeholder"),
        ("test_test", "placeholder"),
        ("n/a", "placeholder"),
        ("unknown task", "placeholder"),
        ("instruction", "placeholder"),
        ("sample 12", "placeholder"),
        ("pick up the $OBJECT", "template"),
        ("pick up the ${object}", "template"),
        ("\x1b[31mpick it up", "unreadable"),
        ("<task description>", "template"),
        ("pick up the {object}", "template"),
        ("123", "no words"),
        ("x", "no words"),
        ("pick\x00up", "unreadable"),
        ("Schließe die TÃ¼r", "unreadable"),
        ("caf\ufffd", "unreadable"),
        ("#@!$%^&*(ab)@!;", "symbols"),
    ],
)
def test_a_text_without_an_instruction_is_named(text, what):
    assert what in (defect(text) or "")


@pytest.mark.parametrize(
    "text",
    [
        "grasp_cube",
        "Pick up the yellow bottle on the table.",
        "put the sample into the test tube",
        "Schließe die Tür",
        "抓取",
        "ドアを開ける",
        "press button 3",
        "Go!",
        "insert the USB plug",
        "insert the bar",
        "insert string",
        "insert the sample here",
        "test the sample",
        "foo the bar",
        "follow the instruction",
        "pick up the $5 bill",
        "Pick up the cube.\nPlace it in the bin.",
        "pick\tup\r\nthe cube",
        "turn it by 5 < x > 3 degrees",
        "Pick up the cube (red), then place it: left",
    ],
)
def test_an_instruction_is_not_a_defect(text):
    assert defect(text) is None


def test_episodes_without_an_instruction_are_found_among_others():
    context = with_tasks(["open the door", "default", "close the door", ""])
    assert found(context, MissingInstruction) == [1, 3]
    assert MissingInstruction.unavailable(context) is None
    check = MissingInstruction(context)
    (plant,) = check.plants()
    copy = plant.make(context.signals.episodes[0], context, np.random.default_rng(0))
    assert copy is not None
    assert copy.task in (1, 3)


def test_a_placeholder_that_no_episode_has_is_not_planted():
    context = with_tasks(["open the door", "default", "close the door"])
    signals = replace(context.signals, tasks=(*context.signals.tasks, "todo", ""))
    context = Context(signals, context.model)
    check, rng = MissingInstruction(context), np.random.default_rng(0)
    (plant,) = check.plants()
    assert {plant.make(signals.episodes[0], context, rng).task for _ in range(20)} == {1}


def test_a_dataset_without_language_is_said_to_have_none():
    assert "no episode has an instruction" in (MissingInstruction.unavailable(with_tasks(["task", "task 2"])) or "")


def test_the_rarer_spelling_is_a_note():
    context = with_tasks(["Open the door.", "open the door", "open  the door", "open the drawer"])
    signals = replace(
        context.signals,
        episodes=tuple(replace(e, task=t) for e, t in zip(context.signals.episodes, (0, 1, 1, 3), strict=True)),
    )
    assert found(Context(signals, context.model), Spelling) == [0]
    assert Spelling.severity == "note"
