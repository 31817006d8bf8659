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
# Least share of the commands that are at one of the two levels, and how far from it they may be, in halves of their
# distance: a joint that moves in quick steps, each episode to other places, has no two values.
AT_LEVELS, NEAR = 0.55, 0.25
# Powers of the share of the episode that has passed: a task opens and closes in an order.
POWERS = 4
# Least agreement of command and expectation in the median episode of a task for a polarity to mean anything.
AGREEMENT = 0.5
# Least episodes of a task: nothing is known of the order of a rarer one.
LEAST_EPISODES = 5
# Tasks above which all have one order.
MOST_TASKS = 64
# Share of the episodes that may disagree with the others: the fit leaves them out from the least share on, since so
# many bend it, and near half nobody knows the rule.
LEAST_SHARE, MOST_SHARE = 0.1, 0.48
# An exchanged command agrees at least as well as this quantile of the sound episodes, less a share of its distance to
# their median.
LOW, BELOW = 0.03, 0.75
# Share of the usual length of a task below which an episode is a part of one: a part has another order.
SHORTEST = 0.7
# Most rounds of leaving out.
ROUNDS = 6
# Agreement, in agreements of the median episode, of those between the two groups, and how many they may be as a share
# of those that disagree: with more there are no two groups.
BETWEEN_FROM, BETWEEN = 0.5, 0.5


class Polarity(Check):
    """
    A two-valued command, such as that of a gripper, with its two values exchanged in the whole episode.

    The command is expected from the state, also a little later, and from the share of the episode that has passed. The
    amount is how well the exchanged command agrees with the expected one, in agreements of the median episode of the
    task.

    Why it harms: the policy learns to open the hand where it should close it.

    Example: one session recorded 1 for an open gripper, the others 1 for a closed one.

    What to do: exchange the two values in this episode, or leave it out.

    Limits: needs tasks of five episodes or more in which the command switches at similar states or moments. At most
    two fifths of the episodes of a task may be exchanged. Episodes in which the command never switches, and
    parts of episodes, also those that are less than 0.7 times as long as usual for their task, are not judged: a
    strategy or a retry looks alike.
    """

    name, unit = "action/polarity", "times usual"
    reads = ("state", "action")
    action = "exchange the two values of this dimension of the actions, or leave the episode out"
    material = 0.55
    # Sound episodes agree with the expectation, so that their amount is zero.
    least_tail = 0.05

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        signals = context.signals
        self._dimensions, self._middle, self._half = _switching(context)
        self._states = np.flatnonzero(signals.state.moves)
        self._ahead = [signals.frames(seconds, 0) for seconds in TIMES]
        tasks, count = np.unique([episode.task for episode in signals.episodes], return_counts=True)
        self._tasks = tasks[count >= LEAST_EPISODES].tolist()
        able = [episode for episode in signals.episodes if episode.task in self._tasks]
        self._fold = {episode.position: row % FOLDS for row, episode in enumerate(able)}
        # Where the episodes of a task do not agree with it, the expectation is that of the other tasks.
        agreement = self._fit(able) if able else np.zeros((0, len(self._dimensions)))
        self._usual = medians_by_task(able, agreement) if able else {}
        self._length = medians_by_task(able, [len(episode) for episode in able]) if able else {}
        # Exchanged commands agree as well as sound ones; those of another strategy of the task do not.
        self._least = {task: _least(agreement[[one.task == task for one in able]]) for task in self._tasks}

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        return None if len(_switching(context)[0]) else "no command has two values"

    def measure(self, view: View) -> Measurement:
        amount = np.zeros(len(self._dimensions))
        usual = self._usual.get(view.episode.task)
        if usual is not None and view.windows and len(view.episode) >= SHORTEST * self._length[view.episode.task]:
            opposite = np.maximum(-self._agreement(view.episode), 0.0)
            judged = (usual >= AGREEMENT) & self._switches(view.episode)
            judged &= opposite >= self._least[view.episode.task]
            amount = np.where(judged, opposite / np.maximum(usual, AGREEMENT), 0.0)
        return {part.scale: Candidates.of(part, amount[None]) for part in view.windows[-1:]}

    def cause(self, found: Found) -> str:
        name = self.context.signals.action.names[self._dimensions[found.dimension]]
        return f"the two values of command {name} are exchanged"

    def plants(self) -> Sequence[Plant]:
        return [Plant("a two-valued command inverted", self._invert, partial=False)]

    def _invert(self, episode: Episode, context: Context, rng: np.random.Generator) -> Episode | None:
        del context
        able = np.flatnonzero(self._switches(episode))
        if not len(able):
            return None
        action, chosen = episode.action.copy(), int(rng.choice(able))
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

    def _switches(self, episode: Episode) -> np.ndarray:
        """Whether each command has both values in an episode, `(d,)` bool; one that never switches is a strategy."""
        return np.ptp(inner_rows(self._commands(episode)), axis=0) > 1.0

    def _fit(self, episodes: Sequence[Episode]) -> np.ndarray:
        """
        The coefficients of each fold, without its episodes; every episode counts the same.

        Returns:
            The agreement of each of the episodes, `(E, d)`.
        """
        grams, rights = self._sums(episodes)
        self._weights = np.stack([_solved(grams, right) for right in rights], axis=-1)
        agreement = np.array([self._agreement(episode) for episode in episodes])
        tasks = np.array([episode.task for episode in episodes])
        for dimension in range(len(rights)):
            first, out = self._weights[..., dimension].copy(), np.zeros(len(episodes), dtype=bool)
            own = agreement[:, dimension]
            for _ in range(ROUNDS):
                before, out = out, _disagreeing(own, tasks)
                if (out == before).all() or out.sum() < LEAST_SHARE * len(out):
                    break
                less_grams, less_rights = self._sums([episodes[number] for number in np.flatnonzero(out).tolist()])
                self._weights[..., dimension] = _solved(grams - less_grams, rights[dimension] - less_rights[dimension])
                own = np.array([self._agreement(episode)[dimension] for episode in episodes])
            if _two_groups(own, out):
                agreement[:, dimension] = own
            else:
                self._weights[..., dimension] = first
        return agreement

    def _sums(self, episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
        """The Gram matrices of each fold, `(folds, p, p)`, and the products with the commands, `(d, folds, p)`."""
        features = self._features(episodes[0]).shape[1]
        folds = max(self._fold.values()) + 1
        grams, rights = np.zeros((folds, features, features)), np.zeros((len(self._dimensions), folds, features))
        for episode in episodes:
            each, fold = self._features(episode), self._fold[episode.position]
            grams[fold] += each.T @ each / len(each)
            rights[:, fold] += inner_rows(self._commands(episode)).T @ each / len(each)
        return grams, rights

    def _agreement(self, episode: Episode) -> np.ndarray:
        """Agreement of command and expectation in an episode, -1 to 1, `(d,)`."""
        expected = self._features(episode) @ self._weights[self._fold[episode.position]]
        command = inner_rows(self._commands(episode))
        size = np.sqrt((command**2).sum(axis=0) * (expected**2).sum(axis=0))
        agreement: np.ndarray = (command * expected).sum(axis=0) / np.maximum(size, 1e-12)
        return agreement


def _switching(context: Context) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dimensions of the command that have two values, and change; the middle of the two and half their distance."""
    scale, episodes = context.signals.action, context.signals.episodes
    dimensions = np.flatnonzero(scale.two_valued)
    commands = np.concatenate([episode.action[:, dimensions] for episode in episodes])
    levels = np.array([two_levels(column) for column in commands.T]).reshape(-1, 2)
    middle, half = levels.mean(axis=1), np.ptp(levels, axis=1) / 2
    from_middle = np.abs(commands - middle) / np.maximum(half, 1e-12)
    kept = (half > 0) & ((np.abs(from_middle - 1) <= NEAR).mean(axis=0) >= AT_LEVELS)
    return dimensions[kept], middle[kept], half[kept]


def _solved(grams: np.ndarray, rights: np.ndarray) -> np.ndarray:
    """The coefficients of each fold from the sums of the others, `(folds, p)`."""
    left, right = grams.sum(axis=0) - grams, rights.sum(axis=0) - rights
    penalty = RIDGE * np.trace(left, axis1=1, axis2=2) / left.shape[1] + 1e-9
    return np.linalg.solve(left + penalty[:, None, None] * np.eye(left.shape[1]), right[..., None])[..., 0]


def _least(agreement: np.ndarray) -> np.ndarray:
    """The least agreement of a sound episode of a task from those `(E, d)` of its episodes, `(d,)`."""
    least = np.ones(agreement.shape[1])
    for dimension, own in enumerate(agreement.T):
        if (own > 0).any():
            low, middle = np.quantile(own[own > 0], [LOW, 0.5])
            least[dimension] = low - BELOW * (middle - low)
    return least


def _disagreeing(agreement: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Which episodes are a minority of their task that disagrees with the expectation, `(E,)` bool."""
    out = agreement < 0
    number, place = np.unique(tasks, return_inverse=True)
    share = np.bincount(place, out, len(number)) / np.bincount(place)
    return out & (share <= MOST_SHARE)[place]


def _two_groups(agreement: np.ndarray, out: np.ndarray) -> bool:
    """Whether hardly any episode agrees neither with those left out `(E,)` nor with the others."""
    usual = np.median(agreement[~out]) if out.any() else 0.0
    between = (np.abs(agreement) < BETWEEN_FROM * usual).sum()
    return bool(usual >= AGREEMENT and between <= BETWEEN * out.sum())
