"""File -> Clip: which times to sample, and the frames shown at those times."""

from videoflamingo.video.contact_sheet import contact_sheet
from videoflamingo.video.load import load_clip
from videoflamingo.video.options import READERS, ReadOptions
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.reader import VideoReader, open_video, read_clip
from videoflamingo.video.sampling import Sampling
from videoflamingo.video.source import SourceFile

__all__ = [
    "READERS",
    "DecodePool",
    "ReadOptions",
    "Sampling",
    "SourceFile",
    "VideoReader",
    "contact_sheet",
    "load_clip",
    "open_video",
    "read_clip",
]
