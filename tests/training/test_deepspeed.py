"""DeepSpeed ZeRO 2 makes the same step as one process. DeepSpeed is not a dependency: `make test-deepspeed`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import exact_cases as cases
import pytest
import zero2

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed is not installed: make test-deepspeed", allow_module_level=True)


@pytest.mark.timeout(1000)
def test_zero_2_makes_the_same_step_and_resumes_exactly(metaworld_dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, zero2.__file__, str(metaworld_dataset), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=960,
        # Operators of its own: a build that was killed leaves a lock behind, for which the next one would wait.
        env={
            **os.environ,
            "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(tmp_path / "operators"),
            # For `benchmarks`, which is not installed.
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for rank in range(2):
        report = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert (report["engine"], report["processes"], report["same_weights"]) == ("DeepSpeedEngine", 2, True)
        for case in zero2.CASES:
            alone, _ = cases.trained(case, metaworld_dataset, tmp_path / f"{case}-{rank}", batch=16, parts=1)
            cases.assert_same_log(report["logs"][case], cases.losses_of(alone))
