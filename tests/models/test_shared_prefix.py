"""A text shared by many rows gives what each row gets when its whole prompt is computed by itself, without a cache."""

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.tiny import FAMILIES, encode, random_visual_tokens, run, tiny_flamingo
from videoflamingo.continuation import Decoder, compute_prefix, continue_prompt
from videoflamingo.errors import UsageError
from videoflamingo.generation import generate, score_choices
from videoflamingo.models import shared_prefix
from videoflamingo.models.flamingo import Flamingo, MediaKeysValues
from videoflamingo.models.language import decoder_layers
from videoflamingo.models.shared_prefix import (
    ATTENTION_NAME,
    SHARING_FAMILIES,
    SharedPrefixCache,
    attend_to_both,
    attending_to,
    cache_contents,
    prefix_reuse,
)
from videoflamingo.prompt import EncodedPrompt, EndOfChunk, Medium, Segment, Text

SHARING = [family for family in FAMILIES if family in SHARING_FAMILIES and family != "mistral"]
SHOTS: list[Segment] = [
    *(Medium(), Text("Output: a cat"), EndOfChunk()),
    *(Medium(), Text("Output: two big dogs"), EndOfChunk()),
]
QUESTIONS = ["Output:", "Question: what is it? Answer:", "Question: who? Answer:"]
SAME_LENGTH = ["Question: a? Answer:", "Question: b? Answer:", "Question: c? Answer:"]


def reference(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """One query `[d]` against `[n, d]`, in float64 and without a batch."""
    scores = (keys.double() @ query.double())[seen]
    weights = (scores - scores.max()).exp()
    return (weights / weights.sum()) @ values.double()[seen]


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("length", [1, 3])
def test_shared_and_own_keys_share_one_softmax(num_groups: int, heads: tuple[int, int], length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query_heads, key_heads = heads
    rows, shared_length, own_length, width = 2 * num_groups, 5, 4, 8
    query = torch.randn(rows, query_heads, length, width, generator=generator)
    shared = torch.randn(2, num_groups, key_heads, shared_length, width, generator=generator)
    own = torch.randn(2, rows, key_heads, own_length, width, generator=generator)
    shared_seen = torch.rand(num_groups, shared_length, generator=generator) < 0.7
    shared_seen[:, -1] = True
    own_seen = torch.rand(rows, 1, length, own_length, generator=generator) < 0.7
    added = torch.zeros(own_seen.shape).masked_fill(~own_seen, -torch.inf)
    found = attend_to_both(query, (shared[0], shared[1]), (own[0], own[1]), shared_seen, added)
    for row in range(rows):
        group = row // 2
        for head in range(query_heads):
            key_head = head * key_heads // query_heads
            keys, values = (torch.cat([shared[i, group, key_head], own[i, row, key_head]]) for i in (0, 1))
            for place in range(length):
                seen = torch.cat([shared_seen[group], own_seen[row, 0, place]])
                expected = reference(query[row, head, place], keys, values, seen)
                torch.testing.assert_close(found[row, head, place].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_groups", [1, 3])
def test_pieces_are_parts_of_the_whole(monkeypatch: pytest.MonkeyPatch, num_groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(6, 4, 3, 8, generator=generator)
    shared = torch.randn(2, num_groups, 2, 5, 8, generator=generator).unbind(0)
    own = torch.randn(2, 6, 2, 3, 8, generator=generator).unbind(0)
    seen = torch.rand(num_groups, 5, generator=generator) < 0.6
    added = torch.randn(6, 1, 3, 3, generator=generator)
    expected = attend_to_both(query, shared, own, seen, added)
    monkeypatch.setattr(shared_prefix, "SCORES_TOGETHER", 4 * 3 * 8 * 4)  # four rows
    torch.testing.assert_close(shared_prefix.attend_in_pieces(query, shared, own, seen, added), expected)
    expected = attend_to_both(query, shared, own, None, added[:1])
    torch.testing.assert_close(shared_prefix.attend_in_pieces(query, shared, own, None, added[:1]), expected)


def media_of(model: Flamingo, visual_tokens: Tensor) -> MediaKeysValues:
    with torch.no_grad():
        return model.media_keys_values(visual_tokens)


class Case:
    """A prefix with two media, and three questions with one medium each, also as whole prompts."""

    def __init__(self, model: Flamingo, questions: Sequence[str] = QUESTIONS) -> None:
        self.model = model
        shots = random_visual_tokens(model, 1, 2, seed=1)
        own = random_visual_tokens(model, len(questions), 1, seed=2)
        self.prefix = compute_prefix(model, encode(model, SHOTS), media_of(model, shots))
        self.suffixes = [continue_prompt(model, self.prefix.prompt, [Medium(), Text(text)]) for text in questions]
        self.media = media_of(model, own)
        self.whole = [encode(model, [*SHOTS, Medium(), Text(text)]) for text in questions]
        self.all_visual_tokens = torch.cat([shots.expand(len(questions), -1, -1, -1), own], dim=1)

    def plain(self, row: int, continued: Sequence[int] = ()) -> Tensor:
        """Logits `[L, V]` of one whole prompt with what follows it, uncached."""
        prompt = self.whole[row]
        ids, index = [*prompt.token_ids, *continued], [*prompt.media_index, *[3] * len(continued)]
        grown = EncodedPrompt(ids, index, [False] * len(ids), 3)
        return run(self.model, grown, self.all_visual_tokens[row : row + 1])


def test_a_prefix_and_what_follows_are_the_tokens_of_the_whole_prompt() -> None:
    case = Case(tiny_flamingo())
    for suffix, whole in zip(case.suffixes, case.whole, strict=True):
        assert [*case.prefix.prompt.token_ids, *suffix.token_ids] == whole.token_ids
        assert [*case.prefix.prompt.media_index, *suffix.media_index] == whole.media_index
        assert suffix.num_media == whole.num_media == 3


@pytest.mark.parametrize("family", SHARING)
def test_rows_of_any_length_continue_one_prefix_as_if_each_were_whole_and_alone(family: str) -> None:
    case = Case(tiny_flamingo(family=family))
    assert case.prefix.reuse == "shared"
    decoder = Decoder(case.model, case.suffixes, media=case.media, prefix=case.prefix)
    with torch.inference_mode():
        found = decoder.next_log_probabilities()
        expected = torch.stack([case.plain(row)[-1].log_softmax(-1) for row in range(3)])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        decoder.select([2, 0, 0, 1])  # as beams do
        tokens = torch.tensor([[7], [8], [9], [10]])
        decoder.append(tokens)
        found = decoder.next_log_probabilities()
        rows = [case.plain(row, [7 + place])[-1].log_softmax(-1) for place, row in enumerate([2, 0, 0, 1])]
        torch.testing.assert_close(found, torch.stack(rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "num_beams"), [*((family, 1) for family in (*SHARING, "mpt")), ("llama", 3), ("mpt", 3)]
)
def test_answers_after_a_prefix_are_those_of_whole_prompts_computed_without_a_cache(
    family: str, num_beams: int
) -> None:
    case = Case(tiny_flamingo(family=family), SAME_LENGTH if family == "mpt" else QUESTIONS)
    settings = {"num_beams": num_beams, "max_new_tokens": 4}
    found = generate(case.model, case.suffixes, media=case.media, prefix=case.prefix, **settings)
    expected = generate(case.model, case.whole, case.all_visual_tokens, use_cache=False, **settings)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("family", [*SHARING, "mpt"])
def test_choices_after_a_prefix_have_the_log_probabilities_of_a_plain_pass(family: str) -> None:
    case = Case(tiny_flamingo(family=family), SAME_LENGTH if family == "mpt" else QUESTIONS)
    choices = [[[10, 11, 12], [20]], [[30, 31]], [[40], [41, 42, 43, 44], [45, 46]]]
    scored = score_choices(case.model, case.suffixes, choices, media=case.media, prefix=case.prefix)
    for row, own in enumerate(choices):
        for choice, found in zip(own, scored[row], strict=True):
            values = case.plain(row, choice)[-len(choice) - 1 : -1].log_softmax(-1)
            expected = values.gather(1, torch.tensor(choice)[:, None]).squeeze(1).tolist()
            assert found.log_probabilities == pytest.approx(expected, abs=1e-4)


def test_where_text_attends_to_all_previous_media_it_sees_those_of_the_prefix() -> None:
    config = tiny_flamingo().config.cross_attention
    model = tiny_flamingo(cross_attention=type(config)(**{**vars(config), "attend_to": "all_previous"}))
    case = Case(model)
    found = generate(model, case.suffixes, media=case.media, prefix=case.prefix, max_new_tokens=6)
    expected = generate(model, case.whole, case.all_visual_tokens, use_cache=False, max_new_tokens=6)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


def test_text_without_a_medium_of_its_own_belongs_to_the_last_one_of_the_prefix() -> None:
    case = Case(tiny_flamingo())
    suffix = continue_prompt(case.model, case.prefix.prompt, [Text("Output:")])
    decoder = Decoder(case.model, [suffix], prefix=case.prefix)
    with torch.inference_mode():
        found = decoder.next_log_probabilities()[0]
    whole = encode(case.model, [*SHOTS, Text("Output:")])
    expected = run(case.model, whole, case.all_visual_tokens[:1, :2])[-1].log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_prefix_of_text_alone_is_continued_with_and_without_a_medium() -> None:
    model = tiny_flamingo()
    start: list[Segment] = [Text("Output: a cat"), EndOfChunk()]
    prefix = compute_prefix(model, encode(model, start))
    tokens = random_visual_tokens(model, 2, 1)
    ends: list[list[Segment]] = [[Medium(), Text("Output:")], [Text("Question: why? Answer:")]]
    suffixes = [continue_prompt(model, prefix.prompt, end) for end in ends]
    with torch.inference_mode():
        found = Decoder(model, suffixes, media=media_of(model, tokens), prefix=prefix).next_log_probabilities()
    for row, end in enumerate(ends):
        expected = run(model, encode(model, [*start, *end]), tokens[row : row + 1])[-1].log_softmax(-1)
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=0)


def test_a_family_that_counts_places_from_the_end_copies_and_refuses_different_lengths() -> None:
    case = Case(tiny_flamingo(family="mpt"))
    assert case.prefix.reuse == "copied"
    with pytest.raises(UsageError, match="prompts of 14 to 36 tokens continue one prefix"):
        Decoder(case.model, case.suffixes, media=case.media, prefix=case.prefix)


def test_layers_with_a_window_get_whole_prompts() -> None:
    model = tiny_flamingo(family="mistral")  # its window is 16 tokens
    assert prefix_reuse(model.language_model) == "none"
    with pytest.raises(UsageError, match="give it whole prompts, without a prefix"):
        compute_prefix(model, encode(model, SHOTS), media_of(model, random_visual_tokens(model, 1, 2)))


def test_attention_that_is_not_pytorchs_own_is_not_replaced() -> None:
    model = tiny_flamingo()
    model.language_model.set_attn_implementation("eager")
    assert prefix_reuse(model.language_model) == "copied"


def test_a_prefix_without_a_cache_is_refused() -> None:
    case = Case(tiny_flamingo())
    with pytest.raises(UsageError, match="give whole prompts"):
        generate(case.model, case.suffixes, media=case.media, prefix=case.prefix, use_cache=False)


# What continuing leaves behind.


def test_a_prefix_is_the_same_after_any_use() -> None:
    case = Case(tiny_flamingo())
    before = [(keys.clone(), values.clone()) for keys, values in case.prefix.contents]
    first = generate(case.model, case.suffixes, media=case.media, prefix=case.prefix, num_beams=3, max_new_tokens=5)
    again = generate(case.model, case.suffixes, media=case.media, prefix=case.prefix, num_beams=3, max_new_tokens=5)
    assert first == again
    for (keys, values), (old_keys, old_values) in zip(case.prefix.contents, before, strict=True):
        assert torch.equal(keys, old_keys)
        assert torch.equal(values, old_values)


def test_no_row_copies_the_shared_text() -> None:
    case = Case(tiny_flamingo())
    decoder = Decoder(case.model, case.suffixes, media=case.media, prefix=case.prefix)
    with torch.inference_mode():
        decoder.next_log_probabilities()
    decoder.select([0, 0, 0, 1, 1, 1, 2, 2, 2])
    for layer, (keys, values) in zip(decoder.cache.layers, case.prefix.contents, strict=True):
        assert layer.shared_keys is keys
        assert layer.shared_values is values
        assert layer.keys.shape[:3] == (9, 2, max(len(suffix) for suffix in case.suffixes))


def test_beams_of_several_whole_prompts_share_each_prompts_cache() -> None:
    case = Case(tiny_flamingo())
    decoder = Decoder(case.model, case.whole, case.all_visual_tokens)
    with torch.inference_mode():
        decoder.next_log_probabilities()
        decoder.select([0, 0, 1, 1, 2, 2])
        decoder.append(torch.tensor([[7], [8], [9], [10], [11], [12]]))
        decoder.next_log_probabilities()
        assert [len(layer.shared_keys) for layer in decoder.cache.layers] == [3] * 4
        decoder.select([1, 0, 5, 5])  # the second prompt has ended
        assert [len(layer.shared_keys) for layer in decoder.cache.layers] == [2] * 4
        decoder.append(torch.tensor([[20], [21], [22], [23]]))
        found = decoder.next_log_probabilities()
    texts = [(0, [8, 20]), (0, [7, 21]), (2, [12, 22]), (2, [12, 23])]
    expected = torch.stack([case.plain(row, tokens)[-1].log_softmax(-1) for row, tokens in texts])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", [[1, 0, 2], [5, 0, 1], [0, 0, 0, 1, 4], [4, 0]])
def test_rows_may_leave_and_change_places_in_any_way(rows: list[int]) -> None:
    case = Case(tiny_flamingo())
    decoder = Decoder(case.model, case.whole, case.all_visual_tokens)
    with torch.inference_mode():
        decoder.next_log_probabilities()
        decoder.select([0, 0, 1, 1, 2, 2])
        decoder.append(torch.arange(7, 13)[:, None])
        decoder.next_log_probabilities()
        decoder.select(rows)
        decoder.append(torch.full((len(rows), 1), 20))
        found = decoder.next_log_probabilities()
    expected = [case.plain(row // 2, [7 + row, 20])[-1].log_softmax(-1) for row in rows]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=0)


def test_a_models_configuration_is_as_it_was_after_a_pass_and_after_an_error() -> None:
    case = Case(tiny_flamingo())
    config = case.model.language_model.config
    decoder = Decoder(case.model, case.suffixes, media=case.media, prefix=case.prefix)
    during = []
    layer = decoder_layers(case.model.language_model)[2]
    hook = layer.register_forward_hook(lambda *_: during.append(config._attn_implementation))
    with torch.inference_mode():
        decoder.next_log_probabilities()
    hook.remove()
    assert during == [ATTENTION_NAME]
    assert config._attn_implementation == "sdpa"
    with pytest.raises(KeyError), attending_to(case.model.language_model, decoder.cache):
        raise KeyError
    assert config._attn_implementation == "sdpa"


def test_a_pass_without_a_prefix_is_bit_for_bit_the_same_while_another_thread_continues_one() -> None:
    case = Case(tiny_flamingo())
    tokens = torch.tensor([[0, 40, 8, 77, 31, 12]])

    def bare() -> Tensor:
        with torch.no_grad():
            return case.model.language_model(input_ids=tokens).logits

    before = bare()
    opened, closing = threading.Event(), threading.Event()

    def hold_a_scope() -> None:
        with attending_to(case.model.language_model, SharedPrefixCache(case.prefix.contents)):
            opened.set()
            closing.wait(30)

    other = threading.Thread(target=hold_a_scope)
    other.start()
    assert opened.wait(30)
    assert case.model.language_model.config._attn_implementation == ATTENTION_NAME
    during = bare()
    closing.set()
    other.join()
    assert torch.equal(during, before)
    assert torch.equal(bare(), before)


def test_two_threads_that_continue_one_prefix_get_what_each_gets_alone() -> None:
    """Each waits for the other in the middle of its pass, so that both scopes are open at once."""
    case = Case(tiny_flamingo())
    alone = [next_of(case, row) for row in (0, 1)]
    meeting = threading.Barrier(2, timeout=30)

    def meet(*_: object) -> None:
        meeting.wait()

    layers = decoder_layers(case.model.language_model)
    hooks = [layers[index].register_forward_hook(meet) for index in (0, 2)]
    found: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda row=row: found.update({row: next_of(case, row)})) for row in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for hook in hooks:
        hook.remove()
    for row in (0, 1):
        assert torch.equal(found[row], alone[row])
    assert case.model.language_model.config._attn_implementation == "sdpa"


def next_of(case: Case, row: int) -> Tensor:
    media = tuple((keys[row : row + 1], values[row : row + 1]) for keys, values in case.media)
    with torch.inference_mode():
        return Decoder(case.model, [case.suffixes[row]], media=media, prefix=case.prefix).next_log_probabilities()


def test_contents_are_those_of_every_layer() -> None:
    case = Case(tiny_flamingo())
    decoder = Decoder(case.model, [case.whole[0]], case.all_visual_tokens[:1])
    with torch.inference_mode():
        decoder.next_log_probabilities()
    contents = cache_contents(decoder.cache)
    assert len(contents) == 4
    length = len(case.prefix.prompt)
    for (keys, values), (shared_keys, shared_values) in zip(contents, case.prefix.contents, strict=True):
        torch.testing.assert_close(keys[:, :, :length], shared_keys, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(values[:, :, :length], shared_values, atol=1e-5, rtol=1e-4)
    assert case.prefix.num_bytes > sum(keys.numel() + values.numel() for keys, values in case.prefix.contents) * 4
