"""Checks of other packages: what is wrong with one is reported in one line before anything runs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from hf_ptr.detection import registry
from hf_ptr.detection.check import Candidates, Check, Found, Measurement, View, measurement_of
from hf_ptr.detection.checks.lag import Lag
from hf_ptr.detection.registry import BUILT_IN, all_checks
from hf_ptr.errors import InputError


class Sound(Check):
    """Finds nothing."""

    name, unit, action, material = "own/sound", "std", "nothing", 1.0

    def measure(self, view: View) -> Measurement:
        return {"event": Candidates.events([], [], [])}

    def cause(self, found: Found) -> str:
        return "none"


class Abstract(Check):
    """Says no cause."""

    name, unit, action = "own/abstract", "std", "nothing"

    def measure(self, view: View) -> Measurement:
        return {}


def without(name: str) -> type[Check]:
    return type("Part", (Sound,), {name: ""})


def fails(error: Exception):
    def load():
        raise error

    return load


def install(monkeypatch: pytest.MonkeyPatch, load) -> None:
    point = SimpleNamespace(name="mine", value="package:Mine", load=load)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (fails(ImportError("no module")), "cannot be loaded: no module; repair or uninstall"),
        (fails(ZeroDivisionError("division by\nzero")), "cannot be loaded: division by"),
        (fails(SyntaxError("invalid syntax")), "cannot be loaded: invalid syntax"),
        (lambda: "Lag", "is not a subclass"),
        (lambda: Abstract, "lacks the method cause"),
        (lambda: without("name"), "lacks the text name"),
        (lambda: without("unit"), "lacks the text unit"),
        (lambda: without("action"), "lacks the text action"),
        (lambda: type("Part", (Sound,), {"severity": "error"}), "lacks a severity of fault or note"),
        (lambda: Lag, "has the name 'action/lag', which is in use"),
    ],
)
def test_a_wrong_check_is_refused(monkeypatch: pytest.MonkeyPatch, load, message: str) -> None:
    install(monkeypatch, load)
    with pytest.raises(InputError) as error:
        all_checks()
    assert message in str(error.value) and "'mine' (package:Mine)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sound_check_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda: Sound)
    assert all_checks() == [*BUILT_IN, Sound]


@pytest.mark.parametrize("amount", [np.nan, np.inf])
def test_an_amount_that_is_not_finite_is_refused_with_the_name_of_the_check(amount: float) -> None:
    class Broken(Sound):
        """Divides by zero."""

        name = "own/broken"

        def measure(self, view: View) -> Measurement:
            return {"event": Candidates.events([0], [4], [amount])}

    class Also(Broken):
        """Calls the method of its base class."""

        def measure(self, view: View) -> Measurement:
            return super().measure(view)

    for check in (Broken, Also):
        with pytest.raises(InputError, match=f"^check 'own/broken': amounts must be finite, not {amount}"):
            measurement_of(check(None), None)
