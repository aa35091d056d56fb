"""What a model answers to training texts, each cut before its first answer."""

from collections.abc import Sequence
from typing import cast

from videoflamingo.generation import encode_segments, generate
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.prompt import PromptTemplate, Segment, Text
from videoflamingo.training.batch import Batch
from videoflamingo.training.objective import answer_place, visual_tokens


def answers(model: Flamingo, batch: Batch) -> list[dict[str, str]]:
    """Greedy answers; texts without an answer, such as pages, are passed over.

    Returns:
        for each text `name`, `place`, `prompt`, `answer` (generated) and `truth`.
    """
    cut = [cut_before_answer(segments) for segments in batch.prompts]
    asked = [(row, *one) for row, one in enumerate(cut) if one is not None]
    if not asked:
        return []
    tokens = visual_tokens(model, batch)  # [B, M, N, D]
    tokens = None if tokens is None else tokens[[row for row, _, _ in asked]]
    generated = generate(model, [encode_segments(model, segments) for _, segments, _ in asked], tokens)
    decode, first_new = model.tokenizer.decode, model.end_of_chunk_id
    return [
        {
            "name": batch.names[row],
            "place": batch.texts[row].place,
            "prompt": "".join(segment.text for segment in segments if isinstance(segment, Text)),
            "answer": PromptTemplate().trim(decode([token for token in one.token_ids if token < first_new])),
            "truth": truth,
        }
        for (row, segments, truth), one in zip(asked, generated, strict=True)
    ]


def cut_before_answer(segments: Sequence[Segment]) -> tuple[list[Segment], str] | None:
    """The prompt up to its first answer, and that answer; None if it has none."""
    place = answer_place(segments)
    return None if place is None else (list(segments[:place]), cast(Text, segments[place]).text.strip())
