"""The candidate pool: a sample's own target never comes back as a negative, and the queue is first in, first out."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ptr.ptr import CandidatePool, Candidates

generated = settings(deadline=None, derandomize=True, max_examples=80)

# What an entry is can be read off its target: whatever the pool hands out names itself.
SERIAL, ID, TASK, VALID = range(4)


@dataclass(frozen=True)
class Sample:
    serial: int
    target_id: int
    task: int
    valid: bool


def pack(samples: list[Sample]) -> Candidates:
    codes = [[s.serial, s.target_id, s.task, s.valid] for s in samples]
    return Candidates(
        target=torch.tensor(codes, dtype=torch.float32),
        target_id=torch.tensor([s.target_id for s in samples]),
        task=torch.tensor([s.task for s in samples]),
        state=torch.tensor([[float(s.serial), 0.0] for s in samples]),
        valid=torch.tensor([s.valid for s in samples]),
    )


def numbered(ids: list[int], tasks: int = 2, first: int = 0) -> list[Sample]:
    return [Sample(first + n, number, number % tasks, True) for n, number in enumerate(ids)]


def chosen(negatives: torch.Tensor, mask: torch.Tensor, gathered: int) -> list[list[Sample]]:
    """The decoded queue entries that each row may use."""
    queue = [
        Sample(int(code[SERIAL]), int(code[ID]), int(code[TASK]), bool(code[VALID])) for code in negatives[gathered:]
    ]
    return [[queue[column] for column in row.nonzero()[:, 0].tolist()] for row in mask[:, gathered:]]


def contents(pool: CandidatePool) -> list[int]:
    """The serials in the queue, the oldest first."""
    state = pool.state_dict()
    if not state:
        return []
    position = int(state["position"])
    order = [*range(position, pool.queue_size), *range(position)]
    return [int(state["target"][slot, SERIAL]) for slot in order if state["valid"][slot]]


@st.composite
def streams(draw: st.DrawFn, max_rows: int = 9) -> list[list[Sample]]:
    """A few steps of samples; ids repeat, within a step and between steps. Without a target the id is -1."""
    steps, serial = [], 0
    for _ in range(draw(st.integers(1, 6))):
        step = []
        for _ in range(draw(st.integers(1, max_rows))):
            valid = draw(st.booleans()) or draw(st.booleans())
            target_id = draw(st.integers(0, 9)) if valid else -1
            step.append(Sample(serial, target_id, draw(st.integers(0, 2)), valid))
            serial += 1
        steps.append(step)
    return steps


@generated
@given(
    stream=streams(),
    queue_size=st.integers(0, 8),
    queue_negatives=st.integers(0, 10),
    ratio=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    similar=st.sampled_from(["task", "state"]),
    ranks=st.integers(1, 3),
)
def test_own_and_invalid_targets_are_never_negatives(
    stream: list[list[Sample]], queue_size: int, queue_negatives: int, ratio: float, similar: str, ranks: int
) -> None:
    """In the minibatch, in the gather of all ranks, and when it comes back through the queue."""
    torch.manual_seed(0)
    pool = CandidatePool(queue_size, queue_negatives, similar)
    remembered: deque[Sample] = deque(maxlen=queue_size)
    for step in stream:
        local = step[: max(1, len(step) // ranks)]
        gathered = pack(step)
        negatives, mask = pool.negatives(pack(local), gathered, ratio)

        assert mask.dtype == torch.bool and mask.shape == (len(local), len(negatives))
        assert torch.equal(negatives[: len(step)], gathered.target)
        expected = [[other.valid and other.target_id != sample.target_id for other in step] for sample in local]
        assert mask[:, : len(step)].tolist() == expected, "the whole minibatch but a sample's own target"

        for sample, drawn in zip(local, chosen(negatives, mask, len(step)), strict=True):
            assert all(entry.target_id != sample.target_id for entry in drawn)
            assert all(entry.valid for entry in drawn)
            assert set(drawn) <= set(remembered), "something that is not in the queue"
            assert max(Counter(drawn).values(), default=0) <= 1, "an entry was drawn twice"
            assert len(drawn) <= min(queue_negatives, queue_size)
            if ratio == 0.0 and queue_negatives >= queue_size:
                assert set(drawn) == {entry for entry in remembered if entry.target_id != sample.target_id}
        pool.push(gathered)
        remembered.extend(sample for sample in step if sample.valid)


@generated
@given(stream=streams(max_rows=12), queue_size=st.integers(1, 7))
def test_the_queue_is_first_in_first_out(stream: list[list[Sample]], queue_size: int) -> None:
    """Repeated wrap-around, with pushes larger than the queue; invalid targets are not stored."""
    pool = CandidatePool(queue_size, queue_negatives=4)
    expected: deque[int] = deque(maxlen=queue_size)
    for step in stream:
        pool.push(pack(step))
        expected.extend(sample.serial for sample in step if sample.valid)
        assert contents(pool) == list(expected)
        assert len(pool) == len(expected)


def test_the_requested_number_is_drawn_from_the_queue_and_draws_differ() -> None:
    torch.manual_seed(0)
    pool = CandidatePool(queue_size=40, queue_negatives=16)
    pool.push(pack(numbered(list(range(40)))))
    batch = pack(numbered([100, 101, 102], first=40))
    seen: set[Sample] = set()
    for _ in range(30):
        drawn = chosen(*pool.negatives(batch, batch), gathered=3)
        assert [len(row) for row in drawn] == [16, 16, 16]
        seen.update(*drawn)
    assert len(seen) == 40, "some entries are never drawn"


def test_paper_defaults() -> None:
    pool = CandidatePool()
    assert (pool.queue_size, pool.queue_negatives) == (1024, 64)
    pool.push(pack(numbered(list(range(1100)))))
    batch = pack(numbered([5000], first=5000))
    assert len(pool) == 1024
    assert len(chosen(*pool.negatives(batch, batch), gathered=1)[0]) == 64


@pytest.mark.parametrize(("ratio", "hard"), [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_hard_negatives_of_the_same_task(ratio: float, hard: int) -> None:
    """Two tasks: of those drawn by chance, every other one is of the sample's own."""
    torch.manual_seed(0)
    pool = CandidatePool(queue_size=160, queue_negatives=16, hard_negatives="task")
    pool.push(pack(numbered(list(range(160)), tasks=2)))
    batch = pack([Sample(1000 + task, 1000 + task, task, True) for task in range(2)])
    same = []
    for _ in range(40):
        for task, drawn in enumerate(chosen(*pool.negatives(batch, batch, ratio), gathered=2)):
            assert len(drawn) == 16
            same.append(sum(entry.task == task for entry in drawn))
    assert min(same) >= hard
    # The chance part is 16 - hard of 160; the standard deviation of its mean over 40 draws is at most 0.3.
    assert sum(same) / len(same) == pytest.approx(hard + (16 - hard) / 2, abs=1.0)


def test_a_task_with_few_samples_gives_all_of_them() -> None:
    torch.manual_seed(0)
    pool = CandidatePool(queue_size=32, queue_negatives=16, hard_negatives="task")
    pool.push(pack([Sample(n, n, int(n < 3), True) for n in range(32)]))
    batch = pack([Sample(99, 99, 1, True), Sample(98, 1, 1, True)])
    all_three, own_left_out = chosen(*pool.negatives(batch, batch, 1.0), gathered=2)
    assert {entry.serial for entry in all_three} == {0, 1, 2}
    assert {entry.serial for entry in own_left_out} == {0, 2}


def test_hard_negatives_of_near_states() -> None:
    """`state` is the serial number: the nearest are known."""
    torch.manual_seed(0)
    pool = CandidatePool(queue_size=40, queue_negatives=8, hard_negatives="state")
    pool.push(pack(numbered(list(range(40)))))
    batch = pack([Sample(20, 20, 0, True), Sample(0, 500, 0, True)])
    middle, edge = chosen(*pool.negatives(batch, batch, 1.0), gathered=2)
    assert {entry.serial for entry in middle} == {16, 17, 18, 19, 21, 22, 23, 24}, "its own target is left out"
    assert {entry.serial for entry in edge} == set(range(8))

    halves = [chosen(*pool.negatives(batch, batch, 0.5), gathered=2)[1] for _ in range(20)]
    assert all(len(drawn) == 8 for drawn in halves)
    # Four are drawn at random, and can replace at most four of the nearest.
    near = [sum(entry.serial < 8 for entry in drawn) for drawn in halves]
    assert min(near) >= 4
    assert any(entry.serial >= 8 for drawn in halves for entry in drawn)


def test_near_states_of_a_queue_that_is_not_full() -> None:
    """Empty slots have the state 0 and must not count as the nearest."""
    torch.manual_seed(0)
    pool = CandidatePool(queue_size=40, queue_negatives=8, hard_negatives="state")
    pool.push(pack(numbered([30, 31, 32], first=30)))
    batch = pack([Sample(0, 500, 0, True)])
    (drawn,) = chosen(*pool.negatives(batch, batch, 1.0), gathered=1)
    assert {entry.serial for entry in drawn} == {30, 31, 32}


@pytest.mark.parametrize(("size", "negatives"), [(0, 64), (16, 0)])
def test_without_a_queue_candidates_come_from_the_minibatch(size: int, negatives: int) -> None:
    pool = CandidatePool(queue_size=size, queue_negatives=negatives)
    batch = pack(numbered([1, 2, 1]))
    pool.push(batch)
    assert len(pool) == min(size, 3)
    found, mask = pool.negatives(batch, batch, 0.5)
    assert torch.equal(found, batch.target)
    assert mask.tolist() == [[False, True, False], [True, False, True], [False, True, False]]


def test_the_queue_holds_constants() -> None:
    """What was pushed is copied, without its graph."""
    pool = CandidatePool(queue_size=4, queue_negatives=4)
    samples = pack(numbered([1, 2]))
    target = samples.target.clone().requires_grad_()
    pool.push(Candidates(**{**samples.tensors(), "target": target * 1.0}))
    with torch.no_grad():
        target.add_(100.0)
    batch = pack(numbered([7], first=7))
    negatives, _ = pool.negatives(batch, batch)
    assert not negatives.requires_grad
    assert not any(tensor.requires_grad for tensor in pool.state_dict().values())
    assert contents(pool) == [0, 1]


@generated
@given(before=streams(), after=streams(), similar=st.sampled_from(["task", "state"]))
def test_a_restored_pool_continues_identically(
    before: list[list[Sample]], after: list[list[Sample]], similar: str
) -> None:
    pool = CandidatePool(6, 4, similar)
    for step in before:
        pool.push(pack(step))
    saved = pool.state_dict()
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    restored = CandidatePool(6, 4, similar)
    restored.load_state_dict(saved)
    for seed, step in enumerate(after):
        found = []
        for each in (pool, restored):
            torch.manual_seed(seed)
            found.append(each.negatives(pack(step), pack(step), 0.5))
            each.push(pack(step))
        assert torch.equal(found[0][1], found[1][1])
        usable = found[0][1].any(dim=0)
        assert torch.equal(found[0][0][usable], found[1][0][usable])
        assert contents(pool) == contents(restored)
    assert all(torch.equal(saved[name], kept[name]) for name in kept), "the saved state moved with the pool"


def test_an_empty_state_empties_the_pool() -> None:
    assert CandidatePool(4, 2).state_dict() == {}
    pool = CandidatePool(4, 2)
    pool.push(pack(numbered([1, 2])))
    pool.load_state_dict({})
    assert len(pool) == 0
    pool.push(pack(numbered([3], first=3)))
    assert contents(pool) == [3]


def test_a_queue_of_another_size_is_refused() -> None:
    pool = CandidatePool(4, 2)
    pool.push(pack(numbered([1])))
    with pytest.raises(ValueError, match="holds 4 targets and queue_size is 5"):
        CandidatePool(5, 2).load_state_dict(pool.state_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue_size": -1}, "queue_size -1"),
        ({"queue_negatives": -2}, "queue_negatives -2"),
        ({"hard_negatives": "colour"}, "'colour'; known: task, state"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CandidatePool(**settings)


# ---- the ratio among all negatives


def filled(similar: str = "task", tasks: int = 5, among: str = "all") -> tuple[CandidatePool, Candidates]:
    """A full queue of 100 and a minibatch of 20, each a fifth of each task."""
    pool = CandidatePool(100, 16, similar, among)
    pool.push(pack(numbered([*range(100)], tasks)))
    return pool, pack(numbered([*range(100, 120)], tasks, first=100))


def decoded(negatives: torch.Tensor, mask: torch.Tensor) -> list[list[tuple[int, int]]]:
    """The serial and task of all negatives of each row."""
    codes = negatives[:, [SERIAL, TASK]].int().tolist()
    return [[tuple(codes[column]) for column in row.nonzero()[:, 0].tolist()] for row in mask]


def test_among_all_the_number_of_negatives_stays_and_the_share_of_hard_ones_is_the_ratio() -> None:
    pool, batch = filled()
    shares = {}
    for ratio in (0.0, 0.2, 0.5):
        generator = torch.Generator().manual_seed(3)
        found = decoded(*pool.negatives(batch, batch, ratio, generator))
        assert {len(row) for row in found} <= {35, 36} and all(len(set(row)) == len(row) for row in found)
        similar = [sum(task == n % 5 for _, task in row) / len(row) for n, row in enumerate(found)]
        shares[ratio] = sum(similar) / len(similar)
    # By chance a fifth of the others are similar, too; at one half the 23 similar ones there are allow no more.
    assert shares[0.0] == pytest.approx(0.2, abs=0.05)
    assert shares[0.2] == pytest.approx(0.2 + 0.8 * 0.2, abs=0.06)
    assert shares[0.5] == pytest.approx(0.5 + 0.5 * 0.2, abs=0.06)
    # Of the queue's draws alone, a half is less than a quarter of all.
    pool, batch = filled(among="queue")
    found = decoded(*pool.negatives(batch, batch, 0.5, torch.Generator().manual_seed(3)))
    assert sum(task == n % 5 for n, row in enumerate(found) for _, task in row) / sum(map(len, found)) < 0.4


def test_among_all_hard_negatives_by_state_are_the_nearest_of_minibatch_and_queue() -> None:
    pool, batch = filled("state")
    ratio = 0.5
    found = decoded(*pool.negatives(batch, batch, ratio, torch.Generator().manual_seed(0)))
    # The state is the serial number: the eighteen nearest of the last sample are those before it.
    row = {serial for serial, _ in found[-1]}
    assert {*range(101, 119)} <= row or len({*range(95, 119)} & row) >= 18
    far = {serial for serial, _ in found[0]}
    assert len({*range(82, 119)} & far) >= 18 and 100 not in far


@pytest.mark.parametrize("similar", ["task", "state"])
@pytest.mark.parametrize(("stored", "own"), [(100, 3), (100, 0), (30, 3)])
def test_among_all_random_negatives_remain_where_few_are_similar(similar: str, stored: int, own: int) -> None:
    """With the queue full or not, and with fewer of the sample's task than the ratio asks for."""
    counts, hard = {}, {}
    for ratio in (0.0, 0.25, 0.5, 1.0):
        pool = CandidatePool(100, 16, similar, "all")
        pool.push(pack([Sample(n, n, int(n < own), True) for n in range(stored)]))
        batch = pack([Sample(200 + n, n, 1, n != 5) for n in range(20)])
        found = decoded(*pool.negatives(batch, batch, ratio, torch.Generator().manual_seed(2)))
        assert all(len(set(row)) == len(row) for row in found)
        counts[ratio], hard[ratio] = [len(row) for row in found], [sum(task for _, task in row) for row in found]
    assert counts[0.25] == counts[0.5] == counts[1.0] == counts[0.0]
    if similar == "task":
        # Every one of the task there is, of minibatch and queue.
        assert min(hard[1.0]) >= 18 and min(hard[1.0]) >= max(hard[0.0]) - 1


def test_among_all_without_a_ratio_nothing_changes() -> None:
    for ratio in (0.0, 0.01):
        drawn = [
            pool.negatives(batch, batch, ratio, torch.Generator().manual_seed(1))
            for pool, batch in (filled(among="all"), filled(among="queue"))
        ]
        for mine, other in zip(*drawn, strict=True):
            assert torch.equal(mine, other)


def test_every_definition_of_the_ratio_is_named() -> None:
    with pytest.raises(ValueError, match="hard_negatives_among is 'batch'; known: queue, all"):
        CandidatePool(hard_negatives_among="batch")
