"""Meta-World's tasks: instructions, episode seeds, and names as users write them."""

from __future__ import annotations

from collections.abc import Iterable

from hf_ptr.envs.checks import require_seed
from hf_ptr.errors import InputError, nearest

# One unique sentence per task, so that the instruction identifies the task. Episode seeds depend on a task's position
# in this table: never reorder it.
INSTRUCTIONS: dict[str, str] = {
    "assembly-v3": "Pick up the wrench and put its ring over the peg.",
    "basketball-v3": "Pick up the basketball and drop it through the hoop.",
    "bin-picking-v3": "Pick the cube out of the red bin and put it into the blue bin.",
    "box-close-v3": "Pick up the lid and close the box with it.",
    "button-press-topdown-v3": "Press the button down from above.",
    "button-press-topdown-wall-v3": "Reach over the wall and press the button down from above.",
    "button-press-v3": "Press the button on the front of the box.",
    "button-press-wall-v3": "Reach around the wall and press the button on the front of the box.",
    "coffee-button-v3": "Press the button of the coffee machine.",
    "coffee-pull-v3": "Pull the mug away from the coffee machine.",
    "coffee-push-v3": "Push the mug under the coffee machine.",
    "dial-turn-v3": "Turn the dial half a turn.",
    "disassemble-v3": "Lift the wrench off the peg.",
    "door-close-v3": "Close the door.",
    "door-lock-v3": "Turn the handle to lock the door.",
    "door-open-v3": "Open the door.",
    "door-unlock-v3": "Turn the handle to unlock the door.",
    "drawer-close-v3": "Push the drawer closed.",
    "drawer-open-v3": "Pull the drawer open.",
    "faucet-close-v3": "Turn the faucet off.",
    "faucet-open-v3": "Turn the faucet on.",
    "hammer-v3": "Pick up the hammer and drive the nail into the box.",
    "hand-insert-v3": "Put the gripper into the hole in the table.",
    "handle-press-side-v3": "Press the handle down from the side.",
    "handle-press-v3": "Press the handle down.",
    "handle-pull-side-v3": "Pull the handle up from the side.",
    "handle-pull-v3": "Pull the handle up.",
    "lever-pull-v3": "Pull the lever up.",
    "peg-insert-side-v3": "Pick up the peg and insert it into the hole from the side.",
    "peg-unplug-side-v3": "Unplug the peg sideways.",
    "pick-out-of-hole-v3": "Pick the puck out of the hole and bring it to the goal.",
    "pick-place-v3": "Pick up the puck and bring it to the goal.",
    "pick-place-wall-v3": "Pick up the puck and bring it over the wall to the goal.",
    "plate-slide-back-side-v3": "Slide the plate out of the cabinet sideways.",
    "plate-slide-back-v3": "Slide the plate back out of the cabinet.",
    "plate-slide-side-v3": "Slide the plate into the cabinet sideways.",
    "plate-slide-v3": "Slide the plate forward into the cabinet.",
    "push-back-v3": "Pull the puck back to the goal.",
    "push-v3": "Push the puck to the goal.",
    "push-wall-v3": "Push the puck around the wall to the goal.",
    "reach-v3": "Move the gripper to the goal.",
    "reach-wall-v3": "Move the gripper around the wall to the goal.",
    "shelf-place-v3": "Pick up the puck and put it on the shelf.",
    "soccer-v3": "Push the ball into the soccer goal.",
    "stick-pull-v3": "Pick up the stick and pull the thermos with it.",
    "stick-push-v3": "Pick up the stick and push the thermos with it.",
    "sweep-into-v3": "Sweep the puck into the hole in the table.",
    "sweep-v3": "Sweep the puck off the table.",
    "window-close-v3": "Slide the window closed.",
    "window-open-v3": "Slide the window open.",
}

# Meta-World's MT10 benchmark.
DEFAULT_TASKS: tuple[str, ...] = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)

EPISODES_PER_TASK = 1_000_000
_POSITION = {task: position for position, task in enumerate(INSTRUCTIONS)}


def task_name(name: str) -> str:
    """Full name of a task: `"reach-v3"` for `"reach"` and `"reach-v3"`.

    Raises:
        InputError: the task is unknown; the message suggests the nearest name.
    """
    full = name if name.endswith("-v3") else f"{name}-v3"
    if full not in INSTRUCTIONS:
        hint = nearest(full, INSTRUCTIONS) or f" Known: {', '.join(task.removesuffix('-v3') for task in INSTRUCTIONS)}"
        raise InputError(f"Meta-World has no task {name!r}.{hint}")
    return full


def task_names(names: Iterable[str]) -> list[str]:
    """Full task names in the given order.

    Raises:
        InputError: no task is given, a name is unknown, or a task is repeated.
    """
    tasks = [task_name(name) for name in names]
    if not tasks:
        raise InputError("no task was named; name at least one, such as 'reach'")
    repeated = next((task for number, task in enumerate(tasks) if task in tasks[:number]), None)
    if repeated is not None:
        raise InputError(f"task {repeated!r} is named twice; name each task once")
    return tasks


def recording_seed(base: int, task: str, number: int) -> int:
    """Environment seed of recording attempt `number` of a task: even, and unique to `(base, task, number)`.

    Args:
        base: the user's seed, in `[0, 2**32)`.
        task: full name.
        number: number of the episode, in `[0, EPISODES_PER_TASK)`.

    Raises:
        InputError: `base` or `number` is out of range.
    """
    return 2 * _episode_number(base, task, number)


def evaluation_seed(base: int, task: str, number: int) -> int:
    """Environment seed of evaluation episode `number` of a task: odd, so that no policy is evaluated on an initial
    state that was recorded. Arguments and errors are those of [`recording_seed`]."""
    return 2 * _episode_number(base, task, number) + 1


def _episode_number(base: int, task: str, number: int) -> int:
    require_seed(base)
    if not 0 <= number < EPISODES_PER_TASK:
        raise InputError(f"episode {number} of {task!r} is out of range; a task has {EPISODES_PER_TASK} seeds")
    return (base * len(_POSITION) + _POSITION[task]) * EPISODES_PER_TASK + number
