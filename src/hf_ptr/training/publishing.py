"""Pushing a run to the Hub: at its end, and its checkpoints while it trains."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from hf_ptr.data.mixture.robots import MIXTURE_FILE
from hf_ptr.errors import InputError
from hf_ptr.hub.push import ensure_repository, push_files, require_writable, run_files, strip_local_paths
from hf_ptr.hub.repos import LAST_CHECKPOINT
from hf_ptr.policies.lora import ADAPTER_CONFIG, base_model_of
from hf_ptr.training.provenance import RECIPE_FILE
from hf_ptr.training.run_card import CARD_FILE, read_json, read_results, results_of, write_card

STAGING = "_push-"
# Files that describe the run; they lie in its folder, not in its checkpoints.
RUN_FILES = (RECIPE_FILE, CARD_FILE, MIXTURE_FILE)
END_MESSAGE = "End of training"
logger = logging.getLogger(__name__)


def push_run(
    folder: str | Path,
    repo_id: str,
    *,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    results: str | Path | None = None,
) -> str:
    """
    Pushes a run, or one of its components, with its card, in one commit.

    Args:
        folder: the folder of the run, or of a component within it.
        repo_id: an existing repository.
        message: the commit message.
        revision: the branch; None for the main branch.
        token: a token with write access; None for the one of `hf auth login` or HF_TOKEN.
        metadata: additional card metadata, see [`write_card`].
        results: JSON from `hf-ptr evaluate --json`; default: `evaluation.json` in the run's folder.

    Returns:
        The commit hash.

    Raises:
        InputError: the folder contains no model, the base policy of an adapter is not on the Hub, or the push fails.
    """
    root = Path(folder)
    files = require_pushable(root, results)
    with tempfile.TemporaryDirectory() as made:
        card = write_card(root, Path(made), repo_id, metadata=metadata, results=results)
        public = strip_local_paths(files, Path(made) / "public")
        return push_files(public | card, repo_id, message=message, revision=revision, token=token)


def require_pushable(folder: Path, results: str | Path | None = None) -> dict[str, Path]:
    """
    The files to push of a run or component, by path in the repository.

    Raises:
        InputError: the folder contains no model, the base policy of an adapter is not on the Hub, or the results file
            does not contain the run.
    """
    files = run_files(folder)
    require_base_on_hub(folder)
    results = results_of(folder, results)
    if results is not None:
        read_results(results, folder.name)
    return files


def require_base_on_hub(folder: Path) -> None:
    """
    Refuses an adapter whose base policy is a local folder: nobody else could load it.

    Raises:
        InputError: the base policy is a local folder.
    """
    require_base_id_on_hub(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path"))


def require_base_id_on_hub(base: str | None) -> None:
    """As [`require_base_on_hub`], for the path or repo id in the configuration of an adapter."""
    if base is not None and os.path.isabs(base):
        raise InputError(
            f"the adapter's base policy is {base}, which is not on the Hub; push it first (hf-ptr push {base} "
            "--repo-id …), then train with policy set to its repo id"
        )


def ensure_run_repository(args: TrainingArguments, policy: Any, token: str | None, private: bool | None) -> str:
    """
    Creates the repository and the branch that the settings of a run name, unless they exist.

    Args:
        args: the settings of the run.
        policy: the policy that is trained.
        token, private: as in [`Trainer.init_hf_repo`].

    Returns:
        The full repo id, `user/name`.

    Raises:
        InputError: as in [`ensure_repository`]; also if the base policy of an adapter is not on the Hub.
    """
    require_base_id_on_hub(base_model_of(policy))
    return _ensured(args, token, private)


def push_finished_run(folder: Path, args: TrainingArguments) -> str:
    """
    Pushes a finished run, as `trainer.push_to_hub` does at the end of training.

    Returns:
        The commit hash.

    Raises:
        InputError: as in [`push_run`] and [`ensure_repository`].
    """
    require_pushable(folder)
    repo_id = _ensured(args, None, None)
    write_card(folder, folder, repo_id)
    return push_run(folder, repo_id, message=END_MESSAGE, revision=args.hub_revision, token=args.hub_token)


def check_hub_access(args: TrainingArguments, policy: str | None, adapts: bool) -> None:
    """
    Checks that a run can be pushed to the repository in its settings, before any long work. Writes nothing.

    Args:
        args: the settings of the run.
        policy: the path or repo id of the base policy, if there is one.
        adapts: whether the run trains a new adapter on the base policy.

    Raises:
        InputError: as in [`require_writable`]; also if the base policy of an adapter is not on the Hub.
    """
    if adapts and policy is not None and os.path.isdir(policy) and not (Path(policy) / ADAPTER_CONFIG).is_file():
        require_base_id_on_hub(os.path.abspath(policy))
    require_writable(_name(args), private=args.hub_private_repo, token=args.hub_token)


def _name(args: TrainingArguments) -> str:
    return args.hub_model_id or Path(str(args.output_dir)).absolute().name


def _ensured(args: TrainingArguments, token: str | None, private: bool | None) -> str:
    return ensure_repository(
        _name(args),
        private=args.hub_private_repo if private is None else private,
        revision=args.hub_revision,
        token=token or args.hub_token,
    )


class CheckpointPusher(PushInProgress):
    """
    Pushes the checkpoints of a run in the background, while it trains.

    Args:
        args: the settings of the run.
    """

    def __init__(self, args: TrainingArguments):
        super().__init__()
        self.args = args
        self.jobs: list[Future] = []
        # Runs its pushes one after the other: a slow push must not overwrite the checkpoint of a later one.
        self.api = HfApi()

    @property
    def wants_checkpoint(self) -> bool:
        """Whether `hub_strategy` pushes checkpoints, and the previous push is done or `hub_always_push` is set."""
        return self.args.hub_strategy != HubStrategy.END and (self.args.hub_always_push or self.is_done())

    def push(self, checkpoint: Path, repo_id: str) -> None:
        """Starts to push the run, in its state at a checkpoint, to an existing repository."""
        job = _start_push(checkpoint, self.args, repo_id, self.api)
        self.jobs = [*(other for other in self.jobs if not other.done()), *([] if job is None else [job])]


def _start_push(checkpoint: Path, args: TrainingArguments, repo_id: str, api: HfApi) -> Future | None:
    """
    The future of the commit; None if the push could not start. Errors are logged and do not stop the training: the
    push at its end sends the missing files.
    """
    folder = Path(str(args.output_dir))
    for left in folder.glob(f"{STAGING}*"):
        # Left by a process that was killed during a push. The folders of this process may still be in use.
        if left.name.removeprefix(STAGING).partition("-")[0] != str(os.getpid()):
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{STAGING}{os.getpid()}-", dir=folder))
    try:
        card = write_card(folder, staging, repo_id, state=checkpoint)
        files = stage_checkpoint(checkpoint, folder, staging, _checkpoint_path(args, checkpoint))
        files = strip_local_paths(files, staging / "public") | card
    except Exception as error:
        _not_pushed(error)
        shutil.rmtree(staging, ignore_errors=True)
        return None

    def push() -> str | None:
        try:
            step = checkpoint.name.rpartition("-")[2]
            message = f"Training in progress, step {step}"
            return push_files(files, repo_id, message=message, revision=args.hub_revision, token=args.hub_token)
        except InputError as error:
            _not_pushed(error)
            return None
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    return api.run_as_future(push)


def _not_pushed(error: Exception) -> None:
    odd = not isinstance(error, InputError | OSError)
    logger.warning("the checkpoint could not be pushed; the training continues: %s", error, exc_info=odd)


def stage_checkpoint(checkpoint: Path, folder: Path, staging: Path, path_in_repo: str | None) -> dict[str, Path]:
    """
    Links or copies the files to push into a staging folder, where later training steps do not change or delete them.

    Args:
        checkpoint: the folder of the checkpoint.
        folder: the folder of the run.
        staging: a new folder, preferably on the same disk.
        path_in_repo: where the repository receives the complete checkpoint, to resume from; None to leave it out.

    Returns:
        The files, by path in the repository.
    """
    files = run_files(checkpoint)
    files |= {name: folder / name for name in RUN_FILES if (folder / name).is_file()}
    if path_in_repo is not None:
        files |= {
            f"{path_in_repo}/{path.relative_to(checkpoint).as_posix()}": path
            for path in sorted(checkpoint.rglob("*"))
            if path.is_file()
        }
    staged = {}
    for number, (name, path) in enumerate(files.items()):
        staged[name] = staging / str(number)
        try:
            os.link(path, staged[name])
        except OSError:
            # Another disk, or a file system without hard links.
            shutil.copyfile(path, staged[name])
    return staged


def _checkpoint_path(args: TrainingArguments, checkpoint: Path) -> str | None:
    """The path in the repository of a complete checkpoint, as `hub_strategy` demands; None for no complete copy."""
    paths = {HubStrategy.CHECKPOINT: LAST_CHECKPOINT, HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
    return paths.get(HubStrategy(args.hub_strategy))
