"""The commands to type after scoring."""

from __future__ import annotations

from hf_ptr.report.next_steps import recipe_command, training_steps


def commands(*arguments: object) -> list[str]:
    return [command for _, command in training_steps(*arguments)]


def test_a_recipe_is_written_before_it_is_trained() -> None:
    assert commands("data/usb", "scores.parquet", [], [], {}) == [
        "hf-ptr init data/usb --out usb.yaml",
        "hf-ptr train usb.yaml weights=scores.parquet",
        "hf-ptr export scores.parquet --to lerobot-static",
    ]


def test_flagged_episodes_can_be_left_out_and_options_stay() -> None:
    assert commands("me/usb@v1", "a b.parquet", [2, 5], [], {"action": "command", "seed": 3}) == [
        "hf-ptr init me/usb@v1 --action command --out usb.yaml",
        "hf-ptr train usb.yaml 'weights=a b.parquet'",
        "hf-ptr export 'a b.parquet' --to lerobot-static",
        "hf-ptr apply me/usb@v1 --findings 'a b.findings.parquet' --out usb_edited",
        "hf-ptr export 'a b.parquet' --to expected --reason WHY",
        "hf-ptr init me/usb@v1 --skip-episodes 2,5 --action command --out usb_without.yaml",
    ]


def test_episodes_that_were_skipped_are_left_out_with_the_flagged_ones() -> None:
    assert commands("data/usb", "s.parquet", [2, 5], [], {"episodes": "0:9", "skip_episodes": "3,7"})[::5] == [
        "hf-ptr init data/usb --episodes 0:9 --skip-episodes 3,7 --out usb.yaml",
        "hf-ptr init data/usb --episodes 0:9 --skip-episodes 2,3,5,7 --out usb_without.yaml",
    ]


def test_a_recipe_has_a_name_for_any_dataset_and_the_shell_reads_the_command() -> None:
    assert recipe_command("/", {}) == "hf-ptr init / --out recipe.yaml"
    assert recipe_command("my data@v1", {"state": "a,b"}, state_only=True) == (
        "hf-ptr init 'my data@v1' --state a,b --state-only --out 'my data.yaml'"
    )


def test_episodes_with_lower_weights_can_be_left_out_too() -> None:
    steps = training_steps("data/usb", "scores.parquet", [2], [1, 9], {})
    assert [step for step in steps if "--skip-episodes" in step[1]] == [
        (
            "or leave out instead: 1 episode with a fault",
            "hf-ptr init data/usb --skip-episodes 2 --out usb_without.yaml",
        ),
        (
            "or leave out instead: also 2 with frames that count less",
            "hf-ptr init data/usb --skip-episodes 1,2,9 --out usb_sound.yaml",
        ),
    ]
    assert commands("data/usb", "scores.parquet", [], [4], {})[-1].endswith("--skip-episodes 4 --out usb_sound.yaml")
