"""What is minimised: a batch's prompts as tokens and labels, and the summed losses over them (Flamingo v1 3.2.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from videoflamingo.errors import ModelError
from videoflamingo.generation import encode_segments
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.prompt import (
    IGNORED_LABEL,
    EncodedPrompt,
    EndOfChunk,
    PaddedPrompts,
    Segment,
    Text,
    pad_prompts,
)
from videoflamingo.training.batch import Batch
from videoflamingo.training.feature_cache import encode_frames
from videoflamingo.training.readout import num_said, readout_loss

LossOn = Literal["all", "answers"]


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """A batch with its prompts in tokens, right-padded; a batch of no text has one row without labels.

    Args:
        readouts: for each text, for each of its media from the first, what the visual tokens must say, as token ids;
            empty if nothing.
    """

    batch: Batch
    prompts: PaddedPrompts
    readouts: list[list[list[list[int]]]]

    @property
    def num_labels(self) -> int:
        """Places the likelihood is over; nothing predicts a text's first token."""
        return int((self.prompts.labels[:, 1:] != IGNORED_LABEL).sum())

    @property
    def num_tokens(self) -> int:
        """Text tokens, without padding."""
        return int(self.prompts.attention_mask.sum()) if len(self.batch) else 0

    def num_said(self, num_visual_tokens: int) -> int:
        """Words the warm-up's loss is over."""
        return sum(num_said(texts, num_visual_tokens) for of_media in self.readouts for texts in of_media)


def encode_batch(
    model: Flamingo, batch: Batch, *, loss_on: LossOn, max_text_tokens: int | None = None, readout: bool = False
) -> EncodedBatch:
    """Prompts -> tokens and labels.

    Args:
        max_text_tokens: longer texts are cut at their end; None keeps them whole.
        readout: whether the warm-up's loss is wanted.
    """
    pairs = zip(batch.prompts, batch.media_of_text, strict=True)
    encoded = [_cut(encode_segments(model, segments, of), max_text_tokens) for segments, of in pairs]
    if not encoded:
        encoded = [encode_segments(model, [EndOfChunk()])]
    padded = pad_prompts(encoded, side="right", loss_on=loss_on)
    if not len(batch):
        padded.labels.fill(IGNORED_LABEL)
    readouts = []
    if readout:
        said = [text.readouts or ((first_answer(text.segments),),) for text in batch.texts]
        readouts = [[[model.tokenize(one) for one in own] for own in of_media] for of_media in said]
    return EncodedBatch(batch, padded, readouts)


def _cut(encoded: EncodedPrompt, most: int | None) -> EncodedPrompt:
    if most is None or len(encoded) <= most:
        return encoded
    ids, index, is_answer = encoded.token_ids[:most], encoded.media_index[:most], encoded.is_answer[:most]
    return EncodedPrompt(ids, index, is_answer, encoded.num_media)


def visual_tokens(model: Flamingo, batch: Batch) -> Tensor | None:
    """`[B, M, N, D]` of a batch's media; None where no text has one."""
    if not batch.num_media:
        return None
    vision, device = model.vision, model.device
    found = [] if batch.features is None else [batch.features.to(device, non_blocking=True)]
    if batch.frames and vision.is_trained:
        found.append(vision(torch.cat([vision.preprocess(frames) for frames in batch.frames])))  # [F, P, feature width]
    elif batch.frames:
        found.append(encode_frames(vision, batch.frames))
    features = found[0] if len(found) == 1 else torch.cat(found)
    return model.resample(features, batch.frame_index)


def tokens_for_text(model: Flamingo, encoded: EncodedBatch, tokens: Tensor | None) -> Tensor | None:
    """Visual tokens as the text sees them, `[B, M, N, D]`.

    For texts that are `pooled_only`, latents are those of other media, which mislead.
    """
    pooled_only = torch.tensor([text.pooled_only for text in encoded.batch.texts])
    latents = model.config.resampler.num_latents
    if tokens is None or not model.config.resampler.pooled_side or not pooled_only.any():
        return tokens
    batch, num_media = tokens.shape[:2]
    of_others = tokens.detach()[:, :, :latents].flatten(0, 1).roll(1 + (num_media if batch > 1 else 0), 0)
    misled = torch.cat([of_others.unflatten(0, (batch, num_media)), tokens[:, :, latents:]], 2)
    return torch.where(pooled_only.to(tokens.device)[:, None, None, None], misled, tokens)


def text_loss(model: Flamingo, encoded: EncodedBatch, tokens: Tensor | None) -> Tensor:
    """Summed negative log-likelihood of the labels, float32 `[]`.

    Args:
        tokens: visual tokens `[B, M, N, D]`.
    """
    prompts = encoded.prompts
    ids, index, labels, mask = (
        torch.from_numpy(array).to(model.device)
        for array in (prompts.input_ids, prompts.media_index, prompts.labels, prompts.attention_mask)
    )
    return model.loss(ids, index, labels, visual_tokens=tokens, attention_mask=mask)[0]


def said_loss(model: Flamingo, encoded: EncodedBatch, tokens: Tensor | None) -> Tensor:
    """The warm-up's summed loss, float32 `[]`; see `videoflamingo.training.readout`.

    Raises:
        ModelError: if a text has no medium to say it.
    """
    embedding, blocks = model.language_model.get_input_embeddings(), cast(Any, model.blocks)
    own = model.config.resampler.num_latents  # pooled tokens, which come after them, have no words
    if not encoded.readouts:  # no text on this process: a zero through all that is trained
        unseen = model.unseen_visual_tokens()[:, 0]  # [1, N, D]
        return (readout_loss(unseen[:, :own], [[[0]]], blocks, embedding)[0] + unseen[:, own:].sum()) * 0
    if tokens is None or bool((encoded.batch.frame_index[:, 0] < 0).all(-1).any()):
        raise ModelError(
            "the warm-up (objective: readout, or readout_weight) needs a medium in every text; use texts that have "
            "one, or objective: text with readout_weight: 0"
        )
    media = [(row, number) for row, of_media in enumerate(encoded.readouts) for number in range(len(of_media))]
    rows, numbers = zip(*media, strict=True)
    parts = [texts for of_media in encoded.readouts for texts in of_media]
    shown = tokens[list(rows), list(numbers)]  # [media, N, D]
    return readout_loss(shown[:, :own], parts, blocks, embedding)[0] + shown[:, own:].sum() * 0


def answer_place(segments: Sequence[Segment]) -> int | None:
    """Where the prompt's first answer stands among its segments; None if it has none, as a page."""
    return next((at for at, one in enumerate(segments) if isinstance(one, Text) and one.is_answer), None)


def first_answer(segments: Sequence[Segment]) -> str:
    """The text of the prompt's first answer.

    Raises:
        ModelError: if it has none.
    """
    place = answer_place(segments)
    if place is None:
        raise ModelError(f"the text {segments} has no answer, which the warm-up needs; give it texts with answers")
    return cast(Text, segments[place]).text
