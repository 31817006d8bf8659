"""A run that is stopped, killed or out of disk space, and then resumed, equals an uninterrupted run."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import SFT, make
from transformers import TrainerCallback

from hf_ptr import PTRTrainer
from hf_ptr.errors import InputError
from hf_ptr.training import callbacks
from hf_ptr.training.checkpointing import STAGING_FOLDER, clear_unfinished, last_complete_checkpoint, staged
from hf_ptr.training.distributed import ProcessGroup
from hf_ptr.utils.atomic_files import is_out_of_space

RUN = {
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 3,
    "controller_steps": 4,
    "per_device_train_batch_size": 16,
}


class AtStep(TrainerCallback):
    """Calls a function in the middle of a step."""

    def __init__(self, step: int, act: Callable[[], None]):
        self.step, self.act = step, act

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            self.act()


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def assert_same_end(left: PTRTrainer, right: PTRTrainer) -> None:
    """Weights, EMA target, queue, controller, belief tokens and log, to the bit."""
    for mine, other in (
        (left.model, right.model),
        (left.identification.pool, right.identification.pool),
        (left.identification.controller, right.identification.controller),
        (left.carry, right.carry),
    ):
        before, after = mine.state_dict(), other.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    logs = [[entry for entry in each.state.log_history if "loss" in entry] for each in (left, right)]
    assert logs[0] == logs[1]


@pytest.fixture(scope="module")
def straight(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> PTRTrainer:
    trainer = make(metaworld_dataset, tmp_path_factory.mktemp("straight"), **RUN)
    trainer.train()
    return trainer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_its_step_and_resumes_from_it(
    straight: PTRTrainer, metaworld_dataset: Path, tmp_path: Path, number: int
) -> None:
    before = signal.getsignal(number)
    broken = make(metaworld_dataset, tmp_path, **RUN)
    broken.add_callback(AtStep(5, send(number)))
    broken.train()
    assert broken.stopped_by == number and broken.state.global_step == 5
    assert signal.getsignal(number) is before
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    resumed = make(metaworld_dataset, tmp_path, **RUN)
    resumed.train(resume_from_checkpoint=True)
    assert_same_end(resumed, straight)


def test_a_second_interrupt_ends_the_run_at_once(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A duplicate of the first signal, as launchers send it, is not a second interrupt."""
    broken = make(metaworld_dataset, tmp_path, **RUN)
    reached: list[str] = []

    def twice() -> None:
        send(signal.SIGINT)()
        send(signal.SIGINT)()
        reached.append("echo")
        monkeypatch.setattr(callbacks, "ECHO_SECONDS", -1.0)
        send(signal.SIGINT)()
        reached.append("second")

    broken.add_callback(AtStep(5, twice))
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    assert reached == ["echo"]
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


def child_that(work: Callable[[], None]) -> int:
    """The signal that ended a forked process, or 0."""
    child = os.fork()
    if child == 0:
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Moments:
    """
    Counts the times that something under `folder` is about to be opened, made, renamed or removed, and ends its
    process with SIGKILL at one of them.
    """

    EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

    def __init__(self, folder: Path, fatal: int = 0):
        self.folder, self.fatal, self.count = str(folder), fatal, 0
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self.EVENTS and self.folder in str(arguments[0]):
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_of_a_save_resumes_from_a_complete_checkpoint(
    straight: PTRTrainer, metaworld_dataset: Path, tmp_path: Path
) -> None:
    """A real SIGKILL between two system calls on the run's folder. Five random moments; `make soak` has more."""

    def work(folder: Path, fatal: int = 0) -> None:
        trainer = make(metaworld_dataset, folder, save_total_limit=1, **RUN)
        moments = Moments(folder, fatal)
        trainer.train()
        (tmp_path / "moments").write_text(str(moments.count))

    assert child_that(lambda: work(tmp_path / "counted")) == 0
    last = int((tmp_path / "moments").read_text())
    assert last > 60
    in_a_save = 0
    for fatal in random.Random(0).sample(range(last // 8, last), 5):
        folder = tmp_path / str(fatal)
        assert child_that(lambda folder=folder, fatal=fatal: work(folder, fatal)) == -signal.SIGKILL
        in_a_save += (folder / STAGING_FOLDER).exists()
        resumed = make(metaworld_dataset, folder, save_total_limit=1, **RUN)
        resumed.train(resume_from_checkpoint=last_complete_checkpoint(folder))
        assert_same_end(resumed, straight)
        assert not (folder / STAGING_FOLDER).exists()
    assert in_a_save >= 3


def test_a_run_killed_while_replacing_a_checkpoint_keeps_the_old_one(tmp_path: Path) -> None:
    def save(text: str) -> None:
        with staged(tmp_path / "checkpoint-4", ProcessGroup(0, 1)) as place:
            place.mkdir(parents=True)
            (place / "trainer_state.json").write_text(text)

    save('"first"')
    renamed: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(tmp_path) in str(arguments[0]):
            renamed.append(str(arguments[0]))
            if len(renamed) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        sys.addaudithook(hook)
        save('"second"')

    assert child_that(killed) == -signal.SIGKILL
    assert last_complete_checkpoint(tmp_path) is None
    clear_unfinished(tmp_path, ProcessGroup(0, 1))
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert (tmp_path / "checkpoint-4" / "trainer_state.json").read_text() == '"first"'
    assert not (tmp_path / STAGING_FOLDER).exists()
    save('"third"')
    assert (tmp_path / "checkpoint-4" / "trainer_state.json").read_text() == '"third"'


def test_a_signal_after_the_last_step_ends_the_run(metaworld_dataset: Path, tmp_path: Path) -> None:
    class AtEnd(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            send(signal.SIGTERM)()

    trainer = make(metaworld_dataset, tmp_path, **{**RUN, "max_steps": 3, "save_strategy": "no"})
    trainer.add_callback(AtEnd())
    trainer.train()
    assert trainer.stopped_by == signal.SIGTERM
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")


def test_a_finished_run_makes_no_further_step(straight: PTRTrainer, metaworld_dataset: Path, tmp_path: Path) -> None:
    resumed = make(metaworld_dataset, tmp_path, **RUN)
    resumed.train(resume_from_checkpoint=last_complete_checkpoint(str(straight.args.output_dir)))
    assert resumed.state.global_step == 8
    assert_same_end(resumed, straight)


def test_a_full_disk_is_reported_and_keeps_the_previous_checkpoint(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path, **RUN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit of a kilobyte on file sizes has the same effect on the process as a full disk.
    trainer.add_callback(AtStep(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))))
    try:
        with pytest.raises(InputError) as caught:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no space left to save" in str(caught.value)
    assert f"{tmp_path / 'checkpoint-4'} is complete: free some space and rerun the command" in str(caught.value)
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    assert not (tmp_path / STAGING_FOLDER).exists()
    resumed = make(metaworld_dataset, tmp_path, **RUN)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8


def on_a_small_disk(place: Path, size: int) -> bool:
    """Mounts a file system visible to this process only; False if that is not allowed."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    new_user_and_mounts = 0x10000000 | 0x00020000
    if libc.unshare(new_user_and_mounts) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            (Path("/proc/self") / name).write_text(text)
    except OSError:
        return False
    return libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, f"size={size}".encode()) == 0


def test_a_file_system_without_space_keeps_the_previous_checkpoint(metaworld_dataset: Path, tmp_path: Path) -> None:
    """ENOSPC by the kernel: a file system with space for one and a half checkpoints."""
    size = sum(path.stat().st_size for path in whole_checkpoint(metaworld_dataset, tmp_path / "sized").rglob("*"))
    disk, report = tmp_path / "disk", tmp_path / "report"
    disk.mkdir()

    def work() -> None:
        if not on_a_small_disk(disk, int(size * 2.6)):
            report.write_text("not allowed")
            return
        trainer = make(metaworld_dataset, disk / "run", **{**RUN, "save_total_limit": 9})
        try:
            trainer.train()
        except InputError as error:
            newest = last_complete_checkpoint(disk / "run")
            resumed = make(metaworld_dataset, tmp_path / "on", **RUN)
            resumed.train(resume_from_checkpoint=newest)
            report.write_text(
                f"{newest} {(disk / 'run' / STAGING_FOLDER).exists()} {resumed.state.global_step} {error}"
            )

    child_that(work)
    written = report.read_text()
    if written == "not allowed":
        pytest.skip("this machine lets no process mount a file system; RLIMIT_FSIZE stands in, above")
    newest, staging, steps, message = written.split(" ", 3)
    assert Path(newest).parent == disk / "run" and (staging, steps) == ("False", "8")
    assert "no space left to save" in message and f"{newest} is complete: free some space and rerun" in message


def whole_checkpoint(dataset: Path, folder: Path) -> Path:
    make(dataset, folder, **{**RUN, "max_steps": 2}).train()
    return folder / "checkpoint-2"


def test_every_writer_s_error_on_a_full_disk_is_recognised(tmp_path: Path) -> None:
    """Python, safetensors and torch on /dev/full, and under a limit on file sizes."""
    with pytest.raises(OSError) as python, open("/dev/full", "w") as file:
        file.write("x" * 100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(Exception) as by_torch:
            torch.save(torch.ones(100_000), tmp_path / "full.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_out_of_space(python.value) and is_out_of_space(by_torch.value)
    assert not is_out_of_space(ValueError("os errors")) and not is_out_of_space(PermissionError(13, "no"))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_non_finite_target_is_named_instead_of_the_weights_that_it_makes_non_finite(
    metaworld_dataset: Path, tmp_path: Path, parts: int
) -> None:
    trainer = make(
        metaworld_dataset, tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=parts, max_steps=2,
        logging_steps=1, nce_warmup_steps=0,
    )  # fmt: skip
    batches: list[Any] = []
    take = trainer.get_batch_samples

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        found, count = take(*args, **kwargs)
        batches[:] = found
        # In the last micro-batch, so that the others are checked before.
        row = int(found[-1]["has_target"].nonzero()[0])
        found[-1]["next_observation"][row] = torch.nan
        batches.append(int(found[-1]["index"][row]))
        return found, count

    trainer.get_batch_samples = spoiled
    with pytest.raises(InputError, match=r"the target of frame \d+ of 'data'") as caught:
        trainer.train()
    assert f"frame {batches[-1]} of 'data'" in str(caught.value) and "at step 1" in str(caught.value)


@pytest.mark.parametrize("what", ["loss", "weight"])
def test_a_non_finite_chunk_is_named_and_nothing_non_finite_is_saved(
    metaworld_dataset: Path, tmp_path: Path, what: str
) -> None:
    trainer = make(metaworld_dataset, tmp_path, **{**RUN, "max_steps": 40, "logging_steps": 5, **SFT})
    dataset = trainer.train_dataset
    if what == "weight":
        trainer.train_dataset = dataset = dataset.with_weights(torch.ones(len(dataset)).numpy())
        dataset.weights[200] = torch.nan
    else:
        dataset.action[200] = torch.inf
    rows: list[list[int]] = []
    compute = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **kw: (
        rows.append(inputs["index"].tolist()) or compute(model, inputs, **kw)
    )
    with pytest.raises(InputError) as caught:
        trainer.train()
    bad = {200} if what == "weight" else set(range(200 - 15, 201))
    step, index = next((n, i) for n, batch in enumerate(rows, start=1) for i in batch if i in bad)
    episode = int(dataset.table.episode_index[(dataset.table.starts <= index).sum() - 1])
    assert f"the {what} of frame {index} of 'data' (episode {episode}) is not finite at step {step};" in str(
        caught.value
    )
    good = last_complete_checkpoint(tmp_path)
    if good is None:
        assert step <= 2 and "no checkpoint was saved yet" in str(caught.value)
    else:
        assert int(good.rpartition("-")[2]) < step and f"{good} is the last good checkpoint" in str(caught.value)


def test_a_file_of_one_run_is_not_read_by_another(
    metaworld_dataset: Path, straight: PTRTrainer, tmp_path: Path
) -> None:
    folder = str(last_complete_checkpoint(str(straight.args.output_dir)))
    trainer = make(metaworld_dataset, tmp_path, **{**RUN, "per_device_train_batch_size": 8})
    with pytest.raises(
        InputError, match="per_device_train_batch_size 16, now 8: the data would come in another order"
    ):
        trainer.train(resume_from_checkpoint=folder)
    with pytest.raises(InputError, match="has no complete checkpoint; leave resume_from_checkpoint out"):
        trainer.train(resume_from_checkpoint=True)
