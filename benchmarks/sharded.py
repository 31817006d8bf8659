"""Shared parameters or optimiser on CPU; for FSDP2, what accelerate decides by is patched, as it selects DDP there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
# The setting `deepspeed` of a run.
ZERO2 = {
    "zero_optimization": {"stage": 2},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}


@contextlib.contextmanager
def fsdp2() -> Iterator[None]:
    """Trainers created inside shard their parameters over the processes of a CPU run."""
    made = AcceleratorState.__init__

    def persuaded(self: AcceleratorState, *args: object, fsdp_plugin: object = None, **kwargs: object) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    with mock.patch.dict(os.environ, FSDP2), mock.patch.object(AcceleratorState, "__init__", persuaded):
        yield
