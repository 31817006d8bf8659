"""The unified action space: each robot's dimensions are mapped to their slots and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_helpers import REAL_V21
from hypothesis import given
from hypothesis import strategies as st

from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.embodiment import SLOTS, WIDTH, UnifiedActionSpace, embodiment_names, load_embodiment
from hf_ptr.errors import InputError

SPACE = UnifiedActionSpace()


def test_slots_equal_those_of_the_paper() -> None:
    assert WIDTH == 200
    taken = [slot for slots in SLOTS.values() for slot in slots]
    assert len(taken) == len(set(taken)) and max(taken) < WIDTH
    assert SLOTS["right_arm"] == range(50, 57) and SLOTS["left_mano_pose"] == range(155, 200)


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [
        ("unitree_g1_inspire", 26),
        ("adam_u", 31),
        ("fr3", 13),
        ("metaworld_sawyer", 4),
        ("metaworld_sawyer_joints", 8),
        ("franka_gripper", 7),
    ],
)
def test_active_dimensions_are_those_of_the_platforms(name: str, dimensions: int) -> None:
    for kind in ("state", "action"):
        assert int(SPACE.mask(name, kind).sum()) == load_embodiment(name).width(kind) == dimensions


@pytest.mark.parametrize("name", embodiment_names())
@pytest.mark.parametrize("kind", ["state", "action"])
def test_a_vector_is_restored_unchanged(name: str, kind: str) -> None:
    own = torch.randn(3, 5, load_embodiment(name).width(kind))
    unified = SPACE.unify(own, name, kind)
    assert unified.shape == (3, 5, WIDTH)
    torch.testing.assert_close(SPACE.separate(unified, name, kind), own, rtol=0, atol=0)
    assert not unified[..., ~SPACE.mask(name, kind)].any() and unified[..., SPACE.mask(name, kind)].all()


@given(st.sets(st.sampled_from(sorted(SLOTS)), min_size=1))
def test_parts_are_packed_into_their_slots_and_nowhere_else(names: set[str]) -> None:
    parts = {name: torch.full((2, len(SLOTS[name])), float(number + 1)) for number, name in enumerate(sorted(names))}
    vector = SPACE.pack(parts)
    for name, values in parts.items():
        torch.testing.assert_close(vector[..., SLOTS[name].start : SLOTS[name].stop], values)
    assert int((vector != 0).sum()) == sum(values.numel() for values in parts.values())


def test_two_robots_agree_where_they_have_the_same_part() -> None:
    g1, fr3 = torch.randn(26), torch.randn(13)
    unified = SPACE.unify(g1, "unitree_g1_inspire"), SPACE.unify(fr3, "fr3")
    torch.testing.assert_close(SPACE.unpack(unified[0], "unitree_g1_inspire")["right_arm"], g1[7:14])
    torch.testing.assert_close(SPACE.unpack(unified[1], "fr3")["right_arm"], fr3[:7])
    both = SPACE.mask("unitree_g1_inspire") & SPACE.mask("fr3")
    assert int(both.sum()) == 13


@pytest.mark.skipif(not REAL_V21.is_dir(), reason="the real robot's episodes do not lie beside this checkout")
def test_the_real_robot_is_described_in_the_order_of_its_joints() -> None:
    names = read_dataset(REAL_V21).features["action"]["names"][0]
    for part, columns in load_embodiment("unitree_g1_inspire").action.items():
        side, what = part.split("_")
        for column in columns:
            assert names[column].startswith(f"k{side.capitalize()}")
            assert ("Hand" in names[column]) == (what == "hand")
    assert len(names) == load_embodiment("unitree_g1_inspire").width("action")


def test_a_custom_robot_is_described_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("state: [right_arm, waist]\naction: [waist]\n")
    robot = load_embodiment(str(path))
    assert (robot.name, robot.width("state"), robot.width("action")) == ("mine", 10, 3)
    assert SPACE.unify(torch.ones(3), robot)[SLOTS["waist"].start] == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("state: [right_arm]\n", "must hold the keys state and action"),
        ("- right_arm\n", "must hold the keys state and action"),
        ("state: [right_arm]\naction: [right_arn]\n", r"no part 'right_arn'\. Did you mean 'right_arm'\?"),
        ("state: [right_arm]\naction: [waist, waist]\n", "names waist twice"),
        ("state: [right_arm]\naction: 3\n", "must be a list of parts"),
        ("state: [right_arm]\naction: [left_mano_shape]\n", "part of a state only"),
        ("state: [right_arm\n", "is not valid YAML"),
    ],
)
def test_a_wrong_description_is_one_line(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint) as caught:
        load_embodiment(str(path))
    assert "\n" not in str(caught.value) and "wrong.yaml" in str(caught.value)


def test_wrong_vectors_and_names_are_one_line() -> None:
    with pytest.raises(InputError, match=r"no embodiment 'unitree_g1'\. Did you mean 'unitree_g1_inspire'"):
        SPACE.mask("unitree_g1")
    with pytest.raises(InputError, match="right_arm has 6 dimensions; its slots are 7"):
        SPACE.pack({"right_arm": torch.ones(6)})
    with pytest.raises(InputError, match="the action of fr3 has 13 dimensions, this has 12"):
        SPACE.unify(torch.ones(12), "fr3")
    with pytest.raises(InputError, match="a unified vector has 200 dimensions"):
        SPACE.unpack(torch.ones(12), "fr3")
    with pytest.raises(InputError, match="waist has the shape"):
        SPACE.pack({"right_arm": torch.ones(2, 7), "waist": torch.ones(3, 3)})
    with pytest.raises(InputError, match="there is no part"):
        SPACE.pack({})
    with pytest.raises(InputError, match="kind is 'pose'"):
        SPACE.mask("fr3", "pose")
