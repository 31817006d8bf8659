"""The EMA target encoder (PTR Sec. 4) and the scale controller (PTR Sec. 7)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import tiny_batch, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn

from hf_ptr import AdaptiveScaleController, TargetEncoder

generated = settings(deadline=None, derandomize=True, max_examples=80)


class Tower(nn.Module):
    """A tower with a buffer, and a dropout that would make its output random in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.linear = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.linear(observation * self.scale))


def doubled(seed: int) -> Tower:
    torch.manual_seed(seed)
    return Tower().double()


# ---- target encoder


@pytest.mark.parametrize("decay", [0.999, 0.9, 0.25, 0.0])
def test_each_update_is_the_moving_average(decay: float) -> None:
    tower = doubled(0)
    encoder = TargetEncoder(tower, decay=decay)
    expected = [parameter.detach().flatten().tolist() for parameter in tower.parameters()]
    for seed in range(1, 6):
        tower.load_state_dict(doubled(seed).state_dict())
        encoder.update(tower)
        expected = [
            [decay * g + (1.0 - decay) * v for g, v in zip(old, new.flatten().tolist(), strict=True)]
            for old, new in zip(expected, tower.parameters(), strict=True)
        ]
        for want, got in zip(expected, encoder.tower.parameters(), strict=True):
            assert got.flatten().tolist() == pytest.approx(want, abs=1e-15)


def test_the_paper_s_decay_is_the_default() -> None:
    assert TargetEncoder(Tower()).decay == 0.999


def test_buffers_of_the_tower_are_copied_unchanged() -> None:
    tower = doubled(0)
    encoder = TargetEncoder(tower, decay=0.999)
    tower.scale.fill_(7.0)
    assert encoder.tower.scale.item() == 1.0
    encoder.update(tower)
    assert encoder.tower.scale.item() == 7.0


def test_decay_one_freezes_the_target_exactly() -> None:
    tower = doubled(0)
    encoder = TargetEncoder(tower, decay=1.0)
    before = [parameter.clone() for parameter in encoder.tower.parameters()]
    for seed in range(1, 4):
        tower.load_state_dict(doubled(seed).state_dict())
        encoder.update(tower)
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.tower.parameters(), strict=True))


def test_the_target_of_a_half_precision_policy_is_in_single_precision() -> None:
    """A thousandth of a step is below the resolution of bfloat16: the average would not change."""
    tower = Tower().to(torch.bfloat16)
    encoder = TargetEncoder(tower, decay=0.999)
    assert {parameter.dtype for parameter in encoder.tower.parameters()} == {torch.float32}
    expected = tower.linear.weight.float().clone()
    with torch.no_grad():
        tower.linear.weight.add_(1.0)
    for _ in range(200):
        encoder.update(tower)
        expected.lerp_(tower.linear.weight.float(), 0.001)
    torch.testing.assert_close(encoder.tower.linear.weight, expected, rtol=0, atol=1e-5)
    assert encoder(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_target_is_a_copy_of_the_tower() -> None:
    tower = doubled(0)
    encoder = TargetEncoder(tower)
    before = encoder.tower.linear.weight.clone()
    with torch.no_grad():
        tower.linear.weight.add_(1.0)
    assert torch.equal(encoder.tower.linear.weight, before)
    assert tower.linear.weight.requires_grad and tower.training, "the policy's own tower was touched"


def test_the_target_is_not_trained_and_its_output_is_detached() -> None:
    encoder = TargetEncoder(Tower())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    observation = torch.randn(3, 4, requires_grad=True)
    output = encoder(observation)
    assert not output.requires_grad and output.grad_fn is None


def test_it_stays_in_evaluation_mode() -> None:
    encoder = TargetEncoder(Tower())
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    observation = torch.randn(8, 4)
    assert torch.equal(encoder(observation), encoder(observation))

    model = tiny_model().train()
    assert model.policy.training and not model.target_encoder.training


def test_the_output_has_unit_norm() -> None:
    torch.manual_seed(0)
    encoder = TargetEncoder(Tower())
    output = encoder(torch.randn(50, 4) * 100.0)
    torch.testing.assert_close(output.norm(dim=-1), torch.ones(50))
    direction = torch.nn.functional.linear(torch.ones(1, 4), encoder.tower.linear.weight, encoder.tower.linear.bias)
    torch.testing.assert_close(encoder(torch.ones(1, 4)), direction / direction.norm())


def test_below_the_epsilon_the_norm_fades_instead_of_exploding() -> None:
    """L2 normalisation with eps 1e-6 (PTR Table 6)."""
    encoder = TargetEncoder(nn.Identity())
    assert torch.equal(encoder(torch.zeros(1, 3)), torch.zeros(1, 3))
    torch.testing.assert_close(encoder(torch.tensor([[1e-7, 0.0, 0.0]])), torch.tensor([[0.1, 0.0, 0.0]]))
    torch.testing.assert_close(encoder(torch.tensor([[1e-5, 0.0, 0.0]])), torch.tensor([[1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_a_decay_outside_0_and_1_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay is {decay}"):
        TargetEncoder(Tower(), decay=decay)


def test_the_model_moves_it_towards_the_policy_s_own_tower() -> None:
    model = tiny_model()
    model.target_encoder.decay = 0.75
    before = model.target_encoder.tower.layers[0].weight.clone()
    with torch.no_grad():
        model.policy.tower.layers[0].weight.add_(1.0)
    next_observation = tiny_batch()["next_observation"]
    target = model.target_encoder(next_observation)
    model.update_target()
    torch.testing.assert_close(model.target_encoder.tower.layers[0].weight, before + 0.25)
    assert not torch.allclose(model.target_encoder(next_observation), target)


# ---- controller


def clip(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value


def ref_controller(windows: list[tuple[float, float]], tau: float, beta: float, decay: float) -> list[list[float]]:
    """PTR Sec. 7 by the book, from (accuracy, margin) of each logging window: τ, β and hard ratio after each."""
    accuracy = margin = None
    history = []
    for seen_accuracy, seen_margin in windows:
        accuracy = seen_accuracy if accuracy is None else decay * accuracy + (1 - decay) * seen_accuracy
        margin = seen_margin if margin is None else decay * margin + (1 - decay) * seen_margin
        if accuracy < 0.05:
            tau, beta = tau * 1.01, beta * 1.01
        elif accuracy > 0.35 and margin > 0.10:
            tau, beta = tau * 0.995, beta * 0.995
        tau, beta = clip(tau, 0.03, 0.20), clip(beta, 0.5, 3.0)
        history.append([tau, beta, clip(0.5 * (accuracy - 0.10) / (0.50 - 0.10), 0.0, 0.5)])
    return history


def state_of(controller: AdaptiveScaleController) -> list[float]:
    return [controller.temperature, controller.beta, controller.hard_negative_ratio]


def feed(controller: AdaptiveScaleController, accuracy: float, margin: float = 1.0) -> list[float]:
    controller.update(accuracy=accuracy, margin=margin, score=0.3, valid_ratio=0.9)
    return state_of(controller)


windows_of_training = st.lists(
    st.tuples(st.floats(0.0, 1.0) | st.floats(0.0, 0.1), st.floats(-1.0, 3.0)), min_size=1, max_size=60
)


@generated
@given(
    windows=windows_of_training,
    tau=st.floats(0.02, 0.3),
    beta=st.floats(0.4, 4.0),
    decay=st.sampled_from([0.98, 0.5, 0.0]),
)
def test_the_controller_follows_section_7(
    windows: list[tuple[float, float]], tau: float, beta: float, decay: float
) -> None:
    controller = AdaptiveScaleController(tau, beta, decay)
    for window, expected in zip(windows, ref_controller(windows, tau, beta, decay), strict=True):
        assert feed(controller, *window) == pytest.approx(expected, abs=1e-12)


def test_the_paper_s_defaults() -> None:
    controller = AdaptiveScaleController()
    assert (controller.temperature, controller.beta, controller.decay) == (0.12, 1.5, 0.98)
    assert controller.hard_negative_ratio == 0.0


@pytest.mark.parametrize(
    ("accuracy", "margin", "factor"),
    [(0.04, 1.0, 1.01), (0.05, 1.0, 1.0), (0.35, 1.0, 1.0), (0.36, 0.11, 0.995), (0.36, 0.10, 1.0), (0.9, -1.0, 1.0)],
)
def test_the_thresholds(accuracy: float, margin: float, factor: float) -> None:
    controller = AdaptiveScaleController()
    feed(controller, accuracy, margin)
    assert controller.temperature == pytest.approx(0.12 * factor, rel=1e-12)
    assert controller.beta == pytest.approx(1.5 * factor, rel=1e-12)


@pytest.mark.parametrize(
    ("accuracy", "ratio"), [(0.0, 0.0), (0.10, 0.0), (0.20, 0.125), (0.30, 0.25), (0.50, 0.5), (0.99, 0.5)]
)
def test_the_hard_negative_ratio_is_linear_between_its_ends(accuracy: float, ratio: float) -> None:
    assert feed(AdaptiveScaleController(), accuracy)[2] == pytest.approx(ratio, abs=1e-12)


def test_an_update_of_a_scaled_run_stands_for_several() -> None:
    one, three = AdaptiveScaleController(), AdaptiveScaleController(stride=3.0)
    # The first value initialises the averages.
    for controller in (one, three):
        controller.averages = {"accuracy": 0.2, "margin": 0.5, "score": 1.0, "valid_ratio": 0.9}
    for accuracy, margin in ((0.9, 2.0), (0.5, 1.0), (0.0, 0.05)):
        for _ in range(30):
            for _ in range(3):
                feed(one, accuracy, margin)
            feed(three, accuracy, margin)
        assert three.averages == pytest.approx(one.averages, abs=1e-12)
    # The factors begin to count up to two updates apart, where a threshold is crossed between them.
    assert three.temperature == pytest.approx(one.temperature, rel=0.03) and three.temperature < 0.08


def test_tau_and_beta_stop_at_their_clips() -> None:
    blind, sharp = AdaptiveScaleController(), AdaptiveScaleController()
    for _ in range(400):
        feed(blind, 0.0)
        feed(sharp, 1.0)
    assert state_of(blind) == [0.20, 3.0, 0.0]
    assert state_of(sharp) == [0.03, 0.5, 0.5]


def test_all_four_metrics_are_averaged() -> None:
    controller = AdaptiveScaleController(decay=0.75)
    controller.update(accuracy=0.4, margin=2.0, score=1.0, valid_ratio=0.8)
    controller.update(accuracy=0.8, margin=0.0, score=3.0, valid_ratio=0.4)
    assert controller.averages == pytest.approx({"accuracy": 0.5, "margin": 1.5, "score": 1.5, "valid_ratio": 0.7})


def test_without_adaptation_nothing_moves_but_the_averages() -> None:
    controller = AdaptiveScaleController(temperature=0.07, beta=2.0, adaptive=False)
    for accuracy in (0.0, 1.0, 1.0):
        assert feed(controller, accuracy) == [0.07, 2.0, 0.0]
    assert 0.0 < controller.averages["accuracy"] < 1.0


@generated
@given(before=windows_of_training, after=windows_of_training)
def test_a_restored_controller_continues_identically(
    before: list[tuple[float, float]], after: list[tuple[float, float]]
) -> None:
    controller, restored = AdaptiveScaleController(), AdaptiveScaleController(temperature=0.19, beta=0.7)
    for window in before:
        feed(controller, *window)
    restored.load_state_dict(controller.state_dict())
    assert restored.averages == controller.averages
    for window in after:
        assert feed(restored, *window) == feed(controller, *window)


def test_the_state_fits_a_safetensors_file(tmp_path) -> None:
    controller, restored = AdaptiveScaleController(), AdaptiveScaleController()
    feed(controller, 0.437)
    save_file(controller.state_dict(), tmp_path / "state.safetensors")
    restored.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert state_of(restored) == state_of(controller), "a value lost digits on its way"
