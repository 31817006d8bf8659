"""Two-valued commands with their values exchanged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_ptr.detection.check import Candidates, Check, Context, Found, Measurement, Plant, View
from hf_ptr.detection.grippers import two_levels
from hf_ptr.detection.motion import medians_by_task
from hf_ptr.detection.signals import Episode
from hf_ptr.detection.windows import inner_rows

# Ridge penalty as a share of the mean of the Gram matrix's diagonal.
RIDGE = 1e-2
FOLDS = 10
# Seconds from a command to the state that shows its effect.
TIMES = (0.0, 0.2, 0.5)
# Powers of the share of the episode that has passed: a task opens and closes in an order.
POWERS = 4
# Least agreement of command and expectation in the median episode of a task for a polarity to mean anything.
AGREEMENT = 0.5
# Least episodes of a task: nothing is known of the order of a rarer one.
LEAST_EPISODES = 5
# Tasks above which all have one order.
MOST_TASKS = 64


class Polarity(Check):
    """
    A two-valued command, such as that of a gripper, with its two values exchanged in the whole episode.

    The command is expected from the state, also a little later, and from the share of the episode that has passed. The
    amount is how well the exchanged command agrees with the expected one, in agreements of the median episode of the
    task.

    Why it harms: the policy learns to open the hand where it should close it.

    Example: one session recorded 1 for an open gripper, the others 1 for a closed one.

    What to do: exchange the two values in this episode, or leave it out.

    Limits: needs tasks of five episodes or more in which the command switches at similar states or moments. A part of
    an episode is not judged, since a retry looks alike.
    """

    name, unit = "action/polarity", "times usual"
    reads = ("state", "action")
    action = "exchange the two values of this dimension of the actions, or leave the episode out"
    material = 0.35
    # Sound episodes agree with the expectation, so that their amount is zero.
    least_tail = 0.1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        signals = context.signals
        self._dimensions = _switching(context)
        self._states = np.flatnonzero(signals.state.moves)
        self._ahead = [signals.frames(seconds, 0) for seconds in TIMES]
        tasks, count = np.unique([episode.task for episode in signals.episodes], return_counts=True)
        self._tasks = tasks[count >= LEAST_EPISODES].tolist()
        commands = np.concatenate([episode.action[:, self._dimensions] for episode in signals.episodes])
        levels = np.array([two_levels(column) for column in commands.T])
        self._middle, self._half = levels.mean(axis=1), np.ptp(levels, axis=1) / 2
        able = [episode for episode in signals.episodes if episode.task in self._tasks]
        self._fold = {episode.position: row % FOLDS for row, episode in enumerate(able)}
        self._fit(able)
        # Where the episodes of a task do not agree with it, the expectation is that of the other tasks.
        self._usual = medians_by_task(able, [self._agreement(episode) for episode in able]) if able else {}

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        return None if len(_switching(context)) else "no command has two values"

    def measure(self, view: View) -> Measurement:
        amount = np.zeros(len(self._dimensions))
        usual = self._usual.get(view.episode.task)
        if usual is not None and view.windows:
            opposite = np.maximum(-self._agreement(view.episode), 0.0)
            amount = np.where(usual >= AGREEMENT, opposite / np.maximum(usual, AGREEMENT), 0.0)
        return {part.scale: Candidates.of(part, amount[None]) for part in view.windows[-1:]}

    def cause(self, found: Found) -> str:
        name = self.context.signals.action.names[self._dimensions[found.dimension]]
        return f"the two values of command {name} are exchanged"

    def plants(self) -> Sequence[Plant]:
        return [Plant("a two-valued command inverted", self._invert, partial=False)]

    def _invert(self, episode: Episode, context: Context, rng: np.random.Generator) -> Episode:
        del context
        action, chosen = episode.action.copy(), int(rng.integers(len(self._dimensions)))
        dimension = self._dimensions[chosen]
        action[:, dimension] = 2 * self._middle[chosen] - action[:, dimension]
        return episode.with_signals(action=action)

    def _commands(self, episode: Episode) -> np.ndarray:
        """The commands between -1 and 1, `(T, d)`."""
        return np.clip((episode.action[:, self._dimensions] - self._middle) / self._half, -1.0, 1.0)

    def _features(self, episode: Episode) -> np.ndarray:
        state, last = episode.state[:, self._states], len(episode) - 1
        passed = np.linspace(-1.0, 1.0, len(episode))[:, None] ** np.arange(1, POWERS + 1)
        orders = self._tasks if len(self._tasks) <= MOST_TASKS else [episode.task]
        task = np.broadcast_to(np.array(orders) == episode.task, (len(episode), len(orders)))
        ahead = [state[np.minimum(np.arange(len(state)) + frames, last)] for frames in self._ahead]
        # The order of events belongs to a task.
        ordered = (passed[:, :, None] * task[:, None]).reshape(len(episode), -1)
        return inner_rows(np.concatenate([*ahead, ordered, task], axis=1))

    def _fit(self, episodes: Sequence[Episode]) -> None:
        """The coefficients of each fold, without its episodes; every episode counts the same."""
        folds = min(FOLDS, len(episodes))
        grams: list[np.ndarray | float] = [0.0] * folds
        rights: list[np.ndarray | float] = [0.0] * folds
        for episode in episodes:
            features, fold = self._features(episode), self._fold[episode.position]
            grams[fold] = grams[fold] + features.T @ features / len(features)
            rights[fold] = rights[fold] + features.T @ inner_rows(self._commands(episode)) / len(features)
        self._weights = []
        for own_gram, own_right in zip(grams, rights, strict=True):
            gram, right = np.asarray(sum(grams) - own_gram), np.asarray(sum(rights) - own_right)
            penalty = RIDGE * np.trace(gram) / len(gram) + 1e-9
            self._weights.append(np.linalg.solve(gram + penalty * np.eye(len(gram)), right))

    def _agreement(self, episode: Episode) -> np.ndarray:
        """Agreement of command and expectation in an episode, -1 to 1, `(d,)`."""
        expected = self._features(episode) @ self._weights[self._fold[episode.position]]
        command = inner_rows(self._commands(episode))
        size = np.sqrt((command**2).sum(axis=0) * (expected**2).sum(axis=0))
        agreement: np.ndarray = (command * expected).sum(axis=0) / np.maximum(size, 1e-12)
        return agreement


def _switching(context: Context) -> np.ndarray:
    """Dimensions of the command that have two values, and change, `(d,)`."""
    scale = context.signals.action
    changes = np.max([np.ptp(episode.action, axis=0) for episode in context.signals.episodes], axis=0) > 0
    return np.flatnonzero(scale.two_valued & changes)
