"""Every video and picture of a run, encoded once: its visual tokens, keys and values, and pooled features.

Evaluation asks about the same media again and again: the shots of every prompt, a question's video once for each number
of shots and each control. What is held in memory is bounded, and what had to go is read and encoded again.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from videoflamingo.clip import Clip
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.models.flamingo import MediaKeysValues
from videoflamingo.pipeline import VideoFlamingo, distinct_frames

# Media asked of `load` in one call, and frames the tower gets together. Clips are turned into pixels of the tower's
# size as they come, so that a lazy `load` never has more than one clip of full size in memory.
LOAD_TOGETHER = 32
ENCODE_TOGETHER = 64


class ClipFacts(NamedTuple):
    """What a report says of a medium: the times its frames have, in seconds, and the reader that gave them."""

    frame_times: tuple[float, ...]
    reader: str


class MediaStore:
    """Media by key, encoded when first needed. Several threads may use one.

    Held are visual tokens (what the resampler made) and, for the media used last, the keys and values of every gated
    block. Of a medium that had to go, pooled features and facts stay: a few kilobytes each.

    Args:
        model: which encodes them; its weights must not change while the store is used.
        load: keys -> for each, in the same order, its clip or the error it gave. Better an iterator than a list: clips
            are encoded as they come, and then let go.
        max_bytes: bound on visual tokens, keys and values together. Media that are needed at the same time may exceed
            it for as long.

    Raises:
        UsageError: if `max_bytes` is negative.
    """

    def __init__(
        self,
        model: VideoFlamingo,
        load: Callable[[Sequence[Hashable]], Iterable[Clip | VideoError | SamplingError]],
        *,
        max_bytes: int = 2**30,
    ) -> None:
        if max_bytes < 0:
            raise UsageError(f"max_bytes is {max_bytes}; give 0 or more")
        self.model, self.load, self.max_bytes = model, load, max_bytes
        self.num_encoded = 0  # media that went through the tower, those encoded again among them
        self.num_evicted = 0  # media whose visual tokens had to go
        self.num_bytes = 0  # of what is held now
        self.most_bytes = 0  # that were ever held
        self._visual_tokens: OrderedDict[Hashable, Tensor] = OrderedDict()  # [N, D], least recently used first
        self._keys_values: OrderedDict[Hashable, MediaKeysValues] = OrderedDict()  # [1, 1, N, H, d] a block
        self._pooled: dict[Hashable, Tensor] = {}
        self._facts: dict[Hashable, ClipFacts] = {}
        self._failures: dict[Hashable, str] = {}
        self._lock = threading.RLock()

    def prepare(self, keys: Iterable[Hashable]) -> dict[Hashable, str]:
        """Encode those that are not held, and remember those that cannot be read.

        Returns:
            the failures among the keys: key -> message. They are not tried again.
        """
        with self._lock:
            wanted = list(dict.fromkeys(keys))
            missing = [key for key in wanted if key not in self._visual_tokens and key not in self._failures]
            for first in range(0, len(missing), LOAD_TOGETHER):
                self._encode(missing[first : first + LOAD_TOGETHER])
            for key in wanted:
                if key in self._visual_tokens:
                    self._visual_tokens.move_to_end(key)
            self._shrink()
            return {key: self._failures[key] for key in wanted if key in self._failures}

    def keys_values(self, keys: Sequence[Hashable]) -> MediaKeysValues:
        """Keys and values `[1, M, N, H, d]` of M media, for every gated block.

        Raises:
            VideoError: if one could not be read; with the message that `prepare` gave.
            UsageError: if there are no keys.
        """
        if not keys:
            raise UsageError("keys is empty; a prompt without media needs no keys and values")
        with self._lock, torch.inference_mode():
            found: dict[Hashable, MediaKeysValues] = {}
            unheld = [key for key in dict.fromkeys(keys) if key not in self._keys_values]
            tokens = self._tokens_of(unheld)
            if unheld:
                together = self.model.model.media_keys_values(torch.stack(tokens)[None])  # [1, M', N, H, d] a block
                for place, key in enumerate(unheld):
                    one = slice(place, place + 1)
                    found[key] = tuple((k[:, one].clone(), v[:, one].clone()) for k, v in together)
            for key, made in found.items():
                self._keys_values[key] = made
                self._count(_num_bytes(made))
            for key in dict.fromkeys(keys):
                self._keys_values.move_to_end(key)
                if key in self._visual_tokens:
                    self._visual_tokens.move_to_end(key)
            media = [self._keys_values[key] for key in keys]
            self._shrink()
        if len(media) == 1:
            return media[0]
        return tuple(
            (torch.cat([one[block][0] for one in media], dim=1), torch.cat([one[block][1] for one in media], dim=1))
            for block in range(len(media[0]))
        )

    def pooled(self, keys: Sequence[Hashable]) -> Tensor:
        """Features `[K, D]`, float32, on the CPU: the mean of the frozen tower's over frames and patches.

        D is the tower's width. Every frame that the model is shown counts once, so a medium whose frames repeat weighs
        them as often. Never evicted.

        Raises:
            VideoError: if one could not be read.
        """
        with self._lock:
            self.prepare(key for key in keys if key not in self._pooled)
            for key in keys:
                self._refuse_failed(key)
            if not keys:
                return torch.zeros(0, self.model.model.vision.width)
            return torch.stack([self._pooled[key] for key in keys])

    def clip_facts(self, key: Hashable) -> ClipFacts:
        """Times of its frames, and its reader. Never evicted.

        Raises:
            VideoError: if it could not be read.
        """
        with self._lock:
            if key not in self._facts:
                self.prepare([key])
            self._refuse_failed(key)
            return self._facts[key]

    def forget(self, keys: Iterable[Hashable]) -> None:
        """Let go of all that is known of these media, failures, features and facts too."""
        with self._lock:
            for key in keys:
                self._drop_keys_values(key)
                if key in self._visual_tokens:
                    self._count(-_tensor_bytes(self._visual_tokens.pop(key)))
                for kept in (self._pooled, self._facts, self._failures):
                    kept.pop(key, None)

    def _refuse_failed(self, key: Hashable) -> None:
        if key in self._failures:
            raise VideoError(self._failures[key])

    def _tokens_of(self, keys: Sequence[Hashable]) -> list[Tensor]:
        """Visual tokens `[N, D]` of each: what is needed now is there, though it exceeds the bound."""
        found = {key: self._visual_tokens[key] for key in keys if key in self._visual_tokens}
        missing = [key for key in keys if key not in found and key not in self._failures]
        for first in range(0, len(missing), LOAD_TOGETHER):
            found.update(self._encode(missing[first : first + LOAD_TOGETHER]))
        for key in keys:
            self._refuse_failed(key)
        return [found[key] for key in keys]

    @torch.inference_mode()
    def _encode(self, keys: Sequence[Hashable]) -> dict[Hashable, Tensor]:
        """Load and encode; clips wait only until there are enough frames for the tower.

        A frame that several of the waiting clips have, such as the frames of a video in another order, is encoded once.

        Returns:
            visual tokens `[N, D]` of those that could be read, which may be let go again as soon as they are held.
        """
        made: dict[Hashable, Tensor] = {}
        waiting: list[tuple[Hashable, Tensor]] = []  # key, place of each shown frame among the pixels
        pixels: list[Tensor] = []
        places: dict[bytes, int] = {}
        for key, clip in _paired(keys, self.load(keys)):
            if not isinstance(clip, Clip):
                self._failures[key] = str(clip)
                continue
            frames, frame_index = distinct_frames([clip])
            digests = [hashlib.blake2b(frame.tobytes(), digest_size=16).digest() for frame in frames[0]]
            new = [number for number, digest in enumerate(digests) if digest not in places]
            new = [number for number in new if digests.index(digests[number]) == number]
            if new:
                pixels.append(self.model.model.vision.preprocess(frames[0][new]))  # [F', 3, size, size]
            for number in new:
                places[digests[number]] = len(places)
            waiting.append((key, torch.tensor([places[digests[number]] for number in frame_index[0]])))
            self._facts[key] = ClipFacts(tuple(clip.pts_seconds.tolist()), clip.reader)
            if len(places) >= ENCODE_TOGETHER:
                made.update(self._encode_pixels(waiting, pixels))
                waiting, pixels, places = [], [], {}
        if waiting:
            made.update(self._encode_pixels(waiting, pixels))
        return made

    def _encode_pixels(self, waiting: list[tuple[Hashable, Tensor]], pixels: list[Tensor]) -> dict[Hashable, Tensor]:
        model = self.model.model
        features = model.vision(torch.cat(pixels).to(model.device))  # [F, P, D]
        index = torch.full((len(waiting), 1, max(len(shown) for _, shown in waiting)), -1, dtype=torch.int64)
        for row, (_, shown) in enumerate(waiting):
            index[row, 0, : len(shown)] = shown
        visual_tokens = model.resample(features, index).squeeze(1)  # [K, N, D]
        means = features.float().mean(1)  # [F, D]
        for row, (key, shown) in enumerate(waiting):
            self._pooled[key] = means[shown.to(means.device)].mean(0).cpu()
            self._visual_tokens[key] = visual_tokens[row].clone()
            self._count(_tensor_bytes(visual_tokens[row]))
            self.num_encoded += 1
        made = {key: self._visual_tokens[key] for key, _ in waiting}
        self._shrink()
        return made

    def _shrink(self) -> None:
        """Keys and values go first, they are made of the visual tokens in no time; each least recently used first."""
        while self.num_bytes > self.max_bytes and self._keys_values:
            self._drop_keys_values(next(iter(self._keys_values)))
        while self.num_bytes > self.max_bytes and self._visual_tokens:
            _, tokens = self._visual_tokens.popitem(last=False)
            self._count(-_tensor_bytes(tokens))
            self.num_evicted += 1

    def _drop_keys_values(self, key: Hashable) -> None:
        if key in self._keys_values:
            self._count(-_num_bytes(self._keys_values.pop(key)))

    def _count(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self.most_bytes = max(self.most_bytes, self.num_bytes)


def _paired(
    keys: Sequence[Hashable], loaded: Iterable[Clip | VideoError | SamplingError]
) -> Iterator[tuple[Hashable, Clip | VideoError | SamplingError]]:
    """Each key with what was loaded for it, as it comes.

    Raises:
        UsageError: if there are fewer or more.
    """
    arriving = iter(loaded)
    for place, key in enumerate(keys):
        clip = next(arriving, None)
        if clip is None:
            raise UsageError(f"load gave {place} clips for {len(keys)} keys; give one, or its error, for each")
        yield key, clip
    if next(arriving, None) is not None:
        raise UsageError(f"load gave more than {len(keys)} clips for {len(keys)} keys; give one for each")


def _tensor_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _num_bytes(media: MediaKeysValues) -> int:
    return sum(_tensor_bytes(tensor) for block in media for tensor in block)
