"""What a training text asks of the disk: a video or picture, which frames of it, and what is done to them."""

from dataclasses import dataclass, field, replace

import numpy as np

from videoflamingo.errors import UsageError, VideoError
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.sampling import Sampling
from videoflamingo.video.source import SourceFile

COLOURS = 0x636F6C6F  # keeps this draw apart from others made of the same seed
LUMA = np.array([0.299, 0.587, 0.114], np.float32).reshape(3, 1, 1)  # ITU-R BT.601


@dataclass(frozen=True)
class FilePart:
    """A file within a file, such as a clip in a tar shard: bytes `[offset, offset + num_bytes)`.

    Args:
        path: the outer file.
        name: of the inner one, with its extension; messages name it.
    """

    path: str
    offset: int
    num_bytes: int
    name: str

    def read(self) -> SourceFile:
        """Its bytes, read now.

        Raises:
            VideoError: if the outer file cannot be read, or is shorter than that.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.num_bytes)
        except OSError as error:
            raise VideoError(f"{self}: cannot be read ({error.strerror}); check the file") from error
        if len(data) < self.num_bytes:
            raise VideoError(f"{self}: the file ends within it; it changed since it was indexed, so index it again")
        return SourceFile(str(self), data)

    def __str__(self) -> str:
        return f"{self.path}#{self.name}"


@dataclass(frozen=True)
class MediumRequest:
    """A video or picture that a text refers to: where it is, which frames, and how they are changed once read.

    Args:
        source: path, URL, or part of a file.
        sampling: which frames; its range is the part of the video that is meant.
        reading: how they are read.
        seed: for random sampling.
        order: which of the frames are shown, in which order, each as often as it is named; None = all, once each. A
            file of stills becomes as many clips as there are orders, from one entry of a feature cache.
        backwards: the frames in the opposite order.
        mirrored: left and right swapped.
        colour_seed: change brightness, contrast and saturation as drawn from this seed; None leaves them.
    """

    source: str | FilePart
    sampling: Sampling = field(default_factory=Sampling)
    reading: ReadOptions = field(default_factory=ReadOptions)
    seed: int | None = None
    order: tuple[int, ...] | None = None
    backwards: bool = False
    mirrored: bool = False
    colour_seed: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.source)

    def unchanged(self) -> "MediumRequest":
        """The same frames as they lie in the file: what a cache of features keeps."""
        return replace(self, order=None, backwards=False, mirrored=False, colour_seed=None)

    def opened(self) -> str | SourceFile:
        """What a reader takes.

        Raises:
            VideoError: if a part of a file cannot be read.
        """
        return self.source.read() if isinstance(self.source, FilePart) else self.source

    def changed(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 `[T, 3, height, width]`, or raw features float16 `[T, P, D]` of a square grid, as asked for.

        Mirrored features are the grid's columns in the opposite order. That is not quite what a convolutional tower
        gives for the mirrored frame: within a patch, left stays left.

        Raises:
            UsageError: if colours of features are to be changed, or `order` names a frame that there is not.
        """
        frames = self._in_order(frames)
        if self.mirrored:
            frames = frames[..., ::-1] if frames.ndim == 4 else _mirrored_grid(frames)
        if self.colour_seed is not None:
            if frames.ndim != 4:
                raise UsageError(
                    f"{self.name}: colours of cached features cannot be changed; set colour_share to 0, or leave out "
                    "the feature cache"
                )
            frames = changed_colours(frames, self.colour_seed)
        return frames

    def times(self, pts_seconds: np.ndarray) -> np.ndarray:
        """Times `[T]` of the frames as they lie in the file -> of those that `changed` shows, each its own.

        Raises:
            UsageError: as `changed`.
        """
        return self._in_order(pts_seconds)

    def _in_order(self, of_frames: np.ndarray) -> np.ndarray:
        if self.order is not None:
            if not self.order or not all(0 <= index < len(of_frames) for index in self.order):
                last = len(of_frames) - 1
                raise UsageError(f"{self.name}: order {list(self.order)} must name one frame or more, from 0 to {last}")
            of_frames = of_frames[list(self.order)]
        return of_frames[::-1] if self.backwards else of_frames


def _mirrored_grid(features: np.ndarray) -> np.ndarray:
    num_frames, num_patches, width = features.shape
    side = round(num_patches**0.5)
    return features.reshape(num_frames, side, side, width)[:, :, ::-1].reshape(features.shape)


def changed_colours(frames: np.ndarray, seed: int) -> np.ndarray:
    """Brightness, contrast and saturation each times a factor from [0.8, 1.2], the same for all frames of a clip.

    The paper names colour augmentation (Flamingo v2 B.1.2) but no sizes; these are ours.

    Args:
        frames: uint8 `[T, 3, height, width]`.
        seed: the factors are a function of it.

    Returns:
        Frames of the same shape, uint8.
    """
    brightness, contrast, saturation = np.random.default_rng([COLOURS, seed]).uniform(0.8, 1.2, 3).astype(np.float32)
    pixels = frames.astype(np.float32) * brightness
    grey = (pixels * LUMA).sum(1, keepdims=True)  # [T, 1, height, width]
    pixels = grey.mean() + contrast * (grey + saturation * (pixels - grey) - grey.mean())
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
