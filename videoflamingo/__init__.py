"""A video-first Flamingo: few-shot question answering and captioning of video files.

The public names below are loaded when first used, so that `import videoflamingo` takes milliseconds and needs no torch:

>>> import videoflamingo as vf
>>> sorted(vf.__all__)  # doctest: +NORMALIZE_WHITESPACE
['Clip', 'FewShot', 'Flamingo', 'FlamingoConfig', 'Shot', 'VideoFlamingo', 'VideoFlamingoError', 'VideoInfo',
 '__version__', 'load', 'load_clip']
"""

from importlib import import_module
from typing import TYPE_CHECKING

from videoflamingo.startup import collection_paused

if TYPE_CHECKING:
    from videoflamingo.clip import Clip, VideoInfo
    from videoflamingo.errors import VideoFlamingoError
    from videoflamingo.fewshot.few_shot import FewShot
    from videoflamingo.models.flamingo import Flamingo, FlamingoConfig
    from videoflamingo.pipeline import VideoFlamingo, load
    from videoflamingo.prompt import Shot
    from videoflamingo.video import load_clip

__version__ = "0.1.0"

__all__ = [
    "Clip",
    "FewShot",
    "Flamingo",
    "FlamingoConfig",
    "Shot",
    "VideoFlamingo",
    "VideoFlamingoError",
    "VideoInfo",
    "__version__",
    "load",
    "load_clip",
]

_HOMES = {
    "Clip": "videoflamingo.clip",
    "FewShot": "videoflamingo.fewshot.few_shot",
    "Flamingo": "videoflamingo.models.flamingo",
    "FlamingoConfig": "videoflamingo.models.flamingo",
    "Shot": "videoflamingo.prompt",
    "VideoFlamingo": "videoflamingo.pipeline",
    "VideoFlamingoError": "videoflamingo.errors",
    "VideoInfo": "videoflamingo.clip",
    "load": "videoflamingo.pipeline",
    "load_clip": "videoflamingo.video",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with collection_paused():
        value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Names for completion, those not yet loaded included."""
    return sorted({*globals(), *_HOMES})
