"""The wheel of the plug-in has the name by which LeRobot finds it, and the versions that it checks."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from plugin_helpers import PLUGIN


def test_the_wheel_is_what_lerobot_looks_for(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=PLUGIN, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (file,) = [name for name in names if name.endswith("/METADATA")]
        metadata = Parser().parsestr(archive.read(file).decode())
    # LeRobot imports the module that has the name of the distribution, as it is written there.
    assert metadata["Name"] == "lerobot_policy_hf_ptr" and "lerobot_policy_hf_ptr/__init__.py" in names
    (needed,) = metadata.get_all("Requires-Dist")
    required = Requirement(needed)
    assert (required.name, required.extras, required.specifier) == ("lerobot", {"training"}, supported())


def supported() -> SpecifierSet:
    """`SUPPORTED` of the module that extends LeRobot, which cannot be imported without LeRobot."""
    tree = ast.parse((PLUGIN / "src" / PLUGIN.name / "registration.py").read_text())
    (call,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "SUPPORTED"
        and isinstance(node.value, ast.Call)
    ]
    return SpecifierSet(ast.literal_eval(call.args[0]))
