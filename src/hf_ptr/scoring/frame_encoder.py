"""A pretrained vision model that turns single camera images into vectors, for the label-free score."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor
from transformers import AutoModel

from hf_ptr.errors import InputError, first_line
from hf_ptr.hub.pretrained import load_pretrained, pretrained_colours
from hf_ptr.vision.towers import as_tokens, normalized

# Images encoded at a time. With more, what a convolution writes leaves the cache of a CPU.
IMAGES_PER_PASS = 16
# Side of the images, pixels, for a model that states none; ImageNet's. And mean and standard deviation of its colours.
USUAL_SIDE, USUAL_COLOUR = 224, (0.5, 0.5, 0.5)
# What a model of another kind raises when it is given images.
_WRONG_INPUT = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


class FrameEncoder:
    """
    The last hidden state of a pretrained vision model, averaged over the image.

    Args:
        name: as the `source` of [`load_pretrained`][hf_ptr.hub.pretrained.load_pretrained].
        side: side of the images in pixels; None for that of the pretraining.
        device: device of the model; None for the best there is.

    Attributes:
        size: height and width of the images.
        width: numbers per image.
        digest: a hash of weights, configuration and size; the device is not part of it.

    Raises:
        InputError: there is no such model, it is damaged or not a vision model, or does not take images of this size.
    """

    def __init__(self, name: str, side: int | None = None, device: str | torch.device | None = None):
        model = load_pretrained(AutoModel, name, use_safetensors=True)
        # A model of images and text has a tower for each.
        model = getattr(model, "vision_model", model)
        if getattr(model, "main_input_name", "pixel_values") != "pixel_values":
            raise InputError(f"{name} is not a vision model: it reads {model.main_input_name}; name one for images")
        self.size = _usual_size(model) if side is None else (side, side)
        colours = pretrained_colours(name)
        self._mean, self._std = (
            torch.tensor(colours.get(key, USUAL_COLOUR), dtype=torch.float32) for key in ("image_mean", "image_std")
        )
        self.digest = self._digest_of(model)
        self.device = torch.device(device or _best_device())
        # Convolutions are up to twice as fast with the channels last.
        self._model = model.float().eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        self._mean, self._std = self._mean.to(self.device), self._std.to(self.device)
        try:
            found = self._tokens(torch.zeros((1, *self.size, 3), dtype=torch.uint8))
        except _WRONG_INPUT as error:
            raise InputError(
                f"{name} cannot encode images of {self.size[0]} x {self.size[1]} pixels ({first_line(error)}); name a "
                "vision model, or leave image_side out for the size of its pretraining"
            ) from error
        if found.dim() != 3:
            raise InputError(f"{name} is not a vision model: it has no hidden state per image; name another")
        self.width = found.shape[2]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """
        The vectors of images `(N, height, width, 3)` uint8 RGB, scaled to `size`: `(N, width)` float16 on the CPU.

        Raises:
            InputError: a vector has a value that is not finite, or too large for float16.
        """
        parts = [self._tokens(part).mean(dim=1).half().cpu() for part in images.split(IMAGES_PER_PASS)]
        found = torch.cat(parts) if parts else torch.zeros((0, self.width), dtype=torch.float16)
        if not found.isfinite().all():
            raise InputError("the vision model gives values that are not finite, or above 65,504; name another")
        return found

    @torch.inference_mode()
    def _tokens(self, images: Tensor) -> Tensor:
        pixels = normalized(images[:, None].to(self.device), self._mean, self._std, self.size)
        return as_tokens(self._model(pixels.contiguous(memory_format=torch.channels_last)))

    def _digest_of(self, model: torch.nn.Module) -> str:
        settings = [str(model.config), self.size, self._mean.tolist(), self._std.tolist()]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for key, tensor in sorted(model.state_dict().items()):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            # As bytes: numpy has no bfloat16.
            digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _usual_size(model: torch.nn.Module) -> tuple[int, int]:
    """Height and width of the images of the pretraining."""
    size = getattr(model.config, "image_size", None) or USUAL_SIDE
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
