"""
One loss per sample for ACT and Diffusion, whose released `forward` returns one number for the batch.

The released `forward` runs unchanged. A hook keeps what the network returned, and the loss per sample follows from it.
Its mean is the released loss, so that equal weights train as no weights do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Policies of LeRobot 0.6.1 whose own `forward` takes `reduction="none"`.
BY_THEMSELVES = ("evo1", "molmoact2", "pi0", "pi05", "smolvla")
# Relative difference of two sums of the same losses, by the precision of the forward pass: the released loss is
# rounded to it at each operation, by at most 2^-8 in bfloat16 and 2^-11 in float16.
TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
TOLERANCE = 1e-3

Forward = Callable[..., tuple[Tensor, dict[str, Any] | None]]


class NoSampleLossError(TypeError):
    """A policy without a loss per sample, in one line."""


def give_sample_losses(policy: nn.Module) -> None:
    """
    Makes `policy.forward(batch, reduction="none")` return one loss per sample, `(B,)` in float32.

    Args:
        policy: a policy of LeRobot, also below an adapter of PEFT. The `forward` of ACT and Diffusion is extended;
            policies that have a loss per sample stay as they are.

    Raises:
        NoSampleLossError: any other policy.
    """
    base: Any = policy
    if hasattr(base, "get_base_model"):
        base = base.get_base_model()
    if "reduction" in inspect.signature(type(base).forward).parameters:
        return
    name = getattr(base, "name", type(base).__name__)
    if name not in LOSSES:
        able = ", ".join(sorted((*BY_THEMSELVES, *LOSSES)))
        raise NoSampleLossError(f"policy {name!r} has no loss per sample to weigh; those that have one: {able}")
    type(base).forward = with_reduction(type(base).forward, LOSSES[name])


def with_reduction(forward: Forward, losses_of: Callable[[Any, dict[str, Any], Forward], Any]) -> Forward:
    """
    A `forward` with the argument `reduction`.

    Args:
        forward: the released one, of a loss per batch.
        losses_of: computes the loss per sample in the course of `forward`.
    """
    checked = False

    # Not by `functools.wraps`, which would show the signature of the released one.
    def extended(self: Any, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, Any] | None]:
        nonlocal checked
        if reduction == "mean":
            return forward(self, batch)
        if reduction != "none":
            raise ValueError(f"reduction is 'mean' or 'none', not {reduction!r}")
        losses, loss, logged = losses_of(self, batch, forward)
        # Once is enough: this guards against a LeRobot whose loss has changed.
        tolerance = TOLERANCES.get(_precision(self, losses.device.type), TOLERANCE)
        if not checked and not torch.isclose(losses.mean(), loss.float(), rtol=tolerance, equal_nan=True):
            raise NoSampleLossError(
                f"{type(self).__name__}: the losses per sample have the mean {losses.mean().item():.6g}, LeRobot's "
                f"loss is {loss.item():.6g}; this LeRobot computes it in another way: pip install 'lerobot==0.6.1'"
            )
        checked = True
        return losses, logged

    extended.__doc__ = forward.__doc__
    return extended


def act_losses(policy: Any, batch: dict[str, Any], forward: Forward) -> tuple[Tensor, Tensor, dict[str, Any] | None]:
    """
    Losses of an `ACTPolicy`: absolute error of the actions, and the weighted KL divergence of the latent.

    Args:
        policy: the policy.
        batch: B chunks, with `action` `(B, L, D)` and `action_is_pad` `(B, L)`.
        forward: the released forward pass.

    Returns:
        Losses per sample `(B,)` in float32, the released loss, and the logged values.
    """
    outputs: list[Any] = []
    hook = policy.model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        loss, logged = forward(policy, batch)
    finally:
        hook.remove()
    actions, (mean, log_variance) = outputs[-1]
    error = functional.l1_loss(actions.float(), batch["action"].float(), reduction="none")
    losses = _by_sample(error, ~batch["action_is_pad"])
    if policy.config.use_vae and log_variance is not None:
        mean, log_variance = mean.float(), log_variance.float()
        divergence = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(-1)
        losses = losses + policy.config.kl_weight * divergence
    return losses, loss, logged


def diffusion_losses(
    policy: Any, batch: dict[str, Any], forward: Forward
) -> tuple[Tensor, Tensor, dict[str, Any] | None]:
    """
    Losses of a `DiffusionPolicy`: squared error of the noise, or of the actions.

    Args:
        policy: the policy.
        batch: B chunks, with `action` `(B, L, D)` and, where padding is masked, `action_is_pad` `(B, L)`.
        forward: the released forward pass.

    Returns:
        Losses per sample `(B,)` in float32, the released loss, and the logged values.
    """
    drawn: list[tuple[Tensor, Tensor]] = []
    outputs: list[Tensor] = []
    scheduler = policy.diffusion.noise_scheduler
    add_noise = scheduler.add_noise

    def record(clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        drawn.append((clean, noise))
        return add_noise(clean, noise, steps)

    hook = policy.diffusion.unet.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    # An attribute of this scheduler hides the method of its class until it is deleted.
    scheduler.add_noise = record
    try:
        loss, logged = forward(policy, batch)
    finally:
        hook.remove()
        del scheduler.add_noise
    clean, noise = drawn[-1]
    target = noise if policy.config.prediction_type == "epsilon" else clean
    error = functional.mse_loss(outputs[-1].float(), target.float(), reduction="none")
    masked = policy.config.do_mask_loss_for_padding
    valid = ~batch["action_is_pad"] if masked else error.new_ones(error.shape[:2], dtype=torch.bool)
    return _by_sample(error, valid), loss, logged


def _precision(policy: nn.Module, device: str) -> torch.dtype | None:
    """The type that the forward pass computes in: that of autocast, or of the parameters."""
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return next((one.dtype for one in policy.parameters() if one.is_floating_point()), None)


def _by_sample(error: Tensor, valid: Tensor) -> Tensor:
    """
    Each sample's share of the mean over all valid actions of the batch, times B.

    As in the mean, a chunk with half as many valid actions counts half.
    """
    batch, _, dimensions = error.shape
    total = (error * valid.unsqueeze(-1)).sum(dim=(1, 2))
    return total * batch / (valid.sum() * dimensions).clamp_min(1)


LOSSES = {"act": act_losses, "diffusion": diffusion_losses}
