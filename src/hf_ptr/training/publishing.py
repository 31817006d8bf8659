"""A run's way to the Hub: at its end, and from its checkpoints while it goes on."""

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
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from hf_ptr.data.mixture.robots import MIXTURE_FILE
from hf_ptr.errors import InputError
from hf_ptr.hub.push import ensure_repository, push_files, require_writable, run_files, strip_local_paths
from hf_ptr.hub.repos import LAST_CHECKPOINT
from hf_ptr.policies.lora import ADAPTER_CONFIG, adapted_place
from hf_ptr.training.provenance import RECIPE_FILE
from hf_ptr.training.ptr_config import PTRConfig
from hf_ptr.training.run_card import CARD_FILE, read_json, read_results, results_of, write_card

STAGING = "_push-"
# Where the run says what it is, beside the model.
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
    said: Mapping[str, Any] | None = None,
    results: str | Path | None = None,
) -> str:
    """
    Pushes a run, or one of its components, with its card, in one commit.

    Args:
        folder: of the run, or a component's within it.
        repo_id: of a repository that is there.
        message: of the commit.
        revision: the branch; None for the main one.
        token: to write with; None for the one of `hf auth login` or HF_TOKEN.
        said: what the card is told besides, see [`write_card`].
        results: what `hf-ptr evaluate --json` wrote; the run's own `evaluation.json` by default.

    Returns:
        The commit.

    Raises:
        InputError: when the folder holds no model, an adapter's policy is not on the Hub, or the push fails.
    """
    root = Path(folder)
    files = require_pushable(root, results)
    with tempfile.TemporaryDirectory() as made:
        card = write_card(root, Path(made), repo_id, said=said, results=results)
        public = strip_local_paths(files, Path(made) / "public")
        return push_files(public | card, repo_id, message=message, revision=revision, token=token)


def require_pushable(folder: Path, results: str | Path | None = None) -> dict[str, Path]:
    """
    What is pushed of a run or component, by path in the repository.

    Raises:
        InputError: when the folder holds no model, an adapter's policy is not on the Hub, or the results are no run's.
    """
    files = run_files(folder)
    require_base_on_hub(folder)
    results = results_of(folder, results)
    if results is not None:
        read_results(results, folder.name)
    return files


def require_base_on_hub(folder: Path) -> None:
    """
    Refuses to push an adapter whose policy only lies here: nobody else could load it.

    Raises:
        InputError: naming that policy.
    """
    require_base_id_on_hub(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path"))


def require_base_id_on_hub(base: str | None) -> None:
    """As [`require_base_on_hub`], for the place that an adapter's configuration names."""
    if base is not None and os.path.isabs(base):
        raise InputError(
            f"the adapter belongs to the policy in {base}, which is not on the Hub: push that first (hf-ptr push "
            f"{base} --repo-id …), and train with policy: its id"
        )


def ensure_run_repository(args: PTRConfig, policy: Any, token: str | None, private: bool | None) -> str:
    """
    Makes the repository and the branch that a run's settings name, where they are not there yet.

    Args:
        args: of the run.
        policy: that is trained.
        token, private: as [`Trainer.init_hf_repo`].

    Raises:
        InputError: as [`ensure_repository`], and for an adapter whose policy is not on the Hub.
    """
    require_base_id_on_hub(adapted_place(policy))
    return _ensured(args, token, private)


def push_finished_run(folder: Path, args: PTRConfig) -> str:
    """
    Pushes a run that is trained, as `trainer.push_to_hub` would have at its end.

    Returns:
        The commit.

    Raises:
        InputError: as [`push_run`], and as [`ensure_repository`].
    """
    require_pushable(folder)
    repo_id = _ensured(args, None, None)
    write_card(folder, folder, repo_id)
    return push_run(folder, repo_id, message=END_MESSAGE, revision=args.hub_revision, token=args.hub_token)


def check_hub_access(args: PTRConfig, policy: str | None, adapts: bool) -> None:
    """
    Asks whether a run can be pushed where its settings say, before anything long, and writes nothing.

    Args:
        args: of the run.
        policy: the place of the policy that it goes on from, if it does.
        adapts: whether it trains a new adapter on that.

    Raises:
        InputError: as [`require_writable`], and for an adapter whose policy is not on the Hub.
    """
    if adapts and policy is not None and os.path.isdir(policy) and not (Path(policy) / ADAPTER_CONFIG).is_file():
        require_base_id_on_hub(os.path.abspath(policy))
    require_writable(_name(args), private=args.hub_private_repo, token=args.hub_token)


def _name(args: PTRConfig) -> str:
    return args.hub_model_id or Path(str(args.output_dir)).absolute().name


def _ensured(args: PTRConfig, token: str | None, private: bool | None) -> str:
    return ensure_repository(
        _name(args),
        private=args.hub_private_repo if private is None else private,
        revision=args.hub_revision,
        token=token or args.hub_token,
    )


class CheckpointPusher(PushInProgress):
    """
    The pushes of a run's checkpoints, while it goes on.

    Args:
        args: of the run.
    """

    def __init__(self, args: PTRConfig):
        super().__init__()
        self.args = args
        self.jobs: list[Future] = []

    @property
    def wants_checkpoint(self) -> bool:
        """Whether `hub_strategy` wants checkpoints pushed, and the one before is through or need not be."""
        return self.args.hub_strategy != HubStrategy.END and (self.args.hub_always_push or self.is_done())

    def push(self, checkpoint: Path, repo_id: str) -> None:
        """Begins to push the run as it is at a checkpoint, to a repository that is there."""
        job = _begun(checkpoint, self.args, repo_id)
        self.jobs = [*(other for other in self.jobs if not other.done()), *([] if job is None else [job])]


def _begun(checkpoint: Path, args: PTRConfig, repo_id: str) -> Future | None:
    """
    What becomes the commit; None where there is nothing to send. Whatever goes wrong is logged, and ends no training:
    the push at its end sends what is missing.
    """
    folder = Path(str(args.output_dir))
    for left in folder.glob(f"{STAGING}*"):
        # Of a run that was killed while it pushed; those of pushes under way are locked by their number.
        if left.name.removeprefix(STAGING).partition("-")[0] != str(os.getpid()):
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{STAGING}{os.getpid()}-", dir=folder))
    try:
        card = write_card(folder, staging, repo_id, state=checkpoint)
        files = stage(checkpoint, folder, staging, _whole(args, checkpoint))
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

    return HfApi().run_as_future(push)


def _not_pushed(error: Exception) -> None:
    odd = not isinstance(error, InputError | OSError)
    logger.warning("the checkpoint could not be pushed, and the training goes on: %s", error, exc_info=odd)


def stage(checkpoint: Path, folder: Path, staging: Path, whole: str | None) -> dict[str, Path]:
    """
    Puts what is pushed of a checkpoint aside, where no later step of the training deletes or changes it.

    Args:
        checkpoint: of the run.
        folder: of the run.
        staging: a new folder on the same disk.
        whole: where the repository also gets all of the checkpoint, to go on from; None for not at all.

    Returns:
        The files, by path in the repository.
    """
    files = run_files(checkpoint)
    files |= {name: folder / name for name in RUN_FILES if (folder / name).is_file()}
    if whole is not None:
        files |= {
            f"{whole}/{path.relative_to(checkpoint).as_posix()}": path
            for path in sorted(checkpoint.rglob("*"))
            if path.is_file()
        }
    staged = {}
    for number, (name, path) in enumerate(files.items()):
        staged[name] = staging / str(number)
        try:
            os.link(path, staged[name])
        except OSError:
            # Another disk, or one without hard links.
            shutil.copyfile(path, staged[name])
    return staged


def _whole(args: PTRConfig, checkpoint: Path) -> str | None:
    """Where `hub_strategy` wants the whole of a checkpoint in the repository."""
    places = {HubStrategy.CHECKPOINT: LAST_CHECKPOINT, HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
    return places.get(HubStrategy(args.hub_strategy))
