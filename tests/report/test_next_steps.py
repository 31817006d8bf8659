"""The commands to type after scoring."""

from __future__ import annotations

from hf_ptr.report.next_steps import training_steps


def commands(*arguments: object) -> list[str]:
    return [command for _, command in training_steps(*arguments)]


def test_a_recipe_is_written_before_it_is_trained() -> None:
    assert commands("data/usb", "scores.parquet", []) == [
        "hf-ptr init data/usb --out usb.yaml",
        "hf-ptr train usb.yaml weights=scores.parquet alpha=0",
    ]


def test_flagged_episodes_can_be_left_out_and_options_stay() -> None:
    assert commands("me/usb@v1", "a b.parquet", [2, 5], ["--action", "command"]) == [
        "hf-ptr init me/usb@v1 --action command --out usb.yaml",
        "hf-ptr train usb.yaml 'weights=a b.parquet' alpha=0",
        "hf-ptr init me/usb@v1 --action command --skip-episodes 2,5 --out usb_without.yaml",
    ]
