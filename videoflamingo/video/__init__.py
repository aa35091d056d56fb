"""File -> Clip: which times to sample, and the frames shown at those times."""

from videoflamingo.video.contact_sheet import contact_sheet
from videoflamingo.video.load import load_clip
from videoflamingo.video.reader import READERS, VideoReader, open_video, read_clip
from videoflamingo.video.sampling import Sampling
from videoflamingo.video.worker import read_isolated

__all__ = [
    "READERS",
    "Sampling",
    "VideoReader",
    "contact_sheet",
    "load_clip",
    "open_video",
    "read_clip",
    "read_isolated",
]
