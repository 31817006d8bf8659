"""The power that the atlas compares with the recall belongs to plants that exist."""

from __future__ import annotations

from benchmarks.atlas.generated import generated_set
from benchmarks.atlas.kinds import FAULTS
from benchmarks.atlas.ours import PROMISES
from benchmarks.atlas.planted import ACTION, STATE
from hf_ptr.detection.detector import Detector
from hf_ptr.detection.registry import all_checks
from hf_ptr.detection.signals import Signals


def test_every_promise_is_of_a_kind_of_the_atlas_and_of_a_plant_of_a_check():
    detector = Detector(Signals.of_table(generated_set(8), STATE, ACTION), all_checks())
    labels = {plant.label for check in detector.checks for plant in check.plants()}
    assert set(PROMISES) <= set(FAULTS)
    assert set(PROMISES.values()) <= labels
