"""Every backend against a slow twin in float64, forward and gradients."""

import pytest
import torch
from torch import Tensor

from tests.reference import attention as reference
from tests.tiny import draw_weights
from videoflamingo.errors import ModelError
from videoflamingo.models.attention import (
    AttendTo,
    Backend,
    attend,
    backends_that_ran,
    choose_backend,
    cross_attend,
    media_runs,
)
from videoflamingo.models.cross_attention import CrossAttentionConfig, GatedCrossAttentionBlock

NUM_MEDIA, LATENTS, HEADS, DIM_HEAD = 3, 5, 2, 4
LAYOUTS = {
    "text before any medium": [[0, 0, 1, 1, 1]],
    "one token for each medium": [[1, 2, 3]],
    "ragged runs": [[0, 1, 1, 1, 1, 2, 3, 3]],
    "rows of different layouts": [[0, 0, 1, 1], [1, 2, 2, 2]],
    "padding on the left and on the right": [[0, 0, 1, 2], [1, 1, 0, 0]],
    "the index returns to 0": [[1, 1, 0, 1, 2, 0]],
    "the index goes back": [[2, 2, 1, 3, 1]],
    "a medium that no token looks at": [[1, 1, 3, 3]],
    "a row ends and the next begins with one number": [[0, 1], [1, 1]],
    "a row without a medium": [[0, 0, 0], [1, 1, 2]],
    "a single token": [[2]],
    "one long run among short ones": [[1] * 9 + [2] + [3] * 2, [0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3]],
    "every medium as long as the others": [[1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3]],
    "long runs of different lengths": [[0, 0] + [1] * 40 + [3] * 6, [2] * 10 + [1] * 20 + [0] * 18],
}
each_layout = pytest.mark.parametrize("media_index", LAYOUTS.values(), ids=LAYOUTS.keys())
each_backend = pytest.mark.parametrize("backend", ["math", "sdpa"])
each_reach = pytest.mark.parametrize("attend_to", ["own", "all_previous"])


def tensors(media_index: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch, length = len(media_index), len(media_index[0])
    shapes = [(batch, length, HEADS, DIM_HEAD), *[(batch, NUM_MEDIA, LATENTS, HEADS, DIM_HEAD)] * 2]
    query, keys, values = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return query, keys, values


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a sum in which every number of the output counts differently."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return list(torch.autograd.grad((output * weights).sum(), inputs))


def assert_all_close(one: list[Tensor], other: list[Tensor], tolerance: float = 1e-5) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=tolerance, atol=tolerance)


@each_backend
@each_reach
@each_layout
def test_cross_attention_and_its_gradients_equal_the_slow_twin(
    media_index: list[list[int]], attend_to: AttendTo, backend: Backend
) -> None:
    inputs = tensors(media_index)
    exact_inputs = [one.detach().double().requires_grad_() for one in inputs]
    runs = media_runs(media_index, NUM_MEDIA, torch.device("cpu"), attend_to)
    output = cross_attend(*inputs, runs, backend)
    expected = reference.cross_attention(*exact_inputs, media_index, attend_to)
    assert_all_close([output], [expected])
    assert_all_close(gradients(output, list(inputs)), gradients(expected, exact_inputs))


@each_backend
@each_reach
@each_layout
def test_media_that_all_rows_have_need_no_copies(
    media_index: list[list[int]], attend_to: AttendTo, backend: Backend
) -> None:
    query, keys, values = tensors(media_index)
    runs = media_runs(media_index, NUM_MEDIA, torch.device("cpu"), attend_to, same_media=True)
    output = cross_attend(query, keys[:1], values[:1], runs, backend)
    copies = [one[:1].expand_as(one).detach().double() for one in (keys, values)]
    expected = reference.cross_attention(query.detach().double(), *copies, media_index, attend_to)
    assert_all_close([output], [expected])


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_layout
def test_half_precision_is_as_close_to_the_slow_twin_as_its_rounding(
    media_index: list[list[int]], dtype: torch.dtype, backend: Backend
) -> None:
    inputs = [one.detach().to(dtype).requires_grad_() for one in tensors(media_index)]
    exact_inputs = [one.detach().double().requires_grad_() for one in inputs]
    output = cross_attend(*inputs, media_runs(media_index, NUM_MEDIA, torch.device("cpu")), backend)
    expected = reference.cross_attention(*exact_inputs, media_index)
    assert output.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps  # of numbers near 1
    assert_all_close([output], [expected], tolerance)
    assert_all_close(gradients(output, list(inputs)), gradients(expected, exact_inputs), 2 * tolerance)


@each_backend
@each_layout
def test_a_gated_block_and_its_gradients_equal_the_slow_twin(media_index: list[list[int]], backend: Backend) -> None:
    check_gated_block(media_index, CrossAttentionConfig(num_heads=HEADS, dim_head=DIM_HEAD, backend=backend))


OPTIONS = [
    {"activation": "gelu"},
    {"norm_media": False},
    {"gating": "none"},
    {"gate_init": 0.3},
    {"gate_init": 0.3, "relative_to_text": True},
    {"attend_to": "all_previous"},
    {"feed_forward_multiplier": 2.5},
]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_a_gated_block_with_each_option_equals_the_slow_twin(changes: dict) -> None:
    check_gated_block([[0, 1, 1, 2]], CrossAttentionConfig(num_heads=HEADS, dim_head=DIM_HEAD, **changes))


def test_what_is_relative_to_the_text_grows_with_it() -> None:
    config = CrossAttentionConfig(num_heads=HEADS, dim_head=DIM_HEAD, gate_init=0.3, relative_to_text=True)
    block = GatedCrossAttentionBlock(6, 10, config).double()
    draw_weights(block, torch.Generator().manual_seed(0))
    text = torch.randn(1, 2, 6, dtype=torch.float64)
    media = block.keys_values(torch.randn(1, 1, LATENTS, 10, dtype=torch.float64))
    runs = media_runs([[1, 1]], 1, torch.device("cpu"))
    torch.testing.assert_close(block(100 * text, media, runs), 100 * block(text, media, runs), rtol=1e-3, atol=1e-3)


def test_a_block_without_gating_has_no_gates() -> None:
    block = GatedCrossAttentionBlock(6, 10, CrossAttentionConfig(num_heads=HEADS, dim_head=DIM_HEAD, gating="none"))
    assert not [name for name in block.state_dict() if "gate" in name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gating": "sigmoid"}, "CrossAttentionConfig.gating is 'sigmoid'; choose tanh or none"),
        ({"attend_to": "next"}, "CrossAttentionConfig.attend_to is 'next'; choose own or all_previous"),
        ({"every": 0}, "CrossAttentionConfig.every is 0; give 1 or more"),
        ({"first": -1}, "CrossAttentionConfig.first is -1; give 0 or more"),
    ],
)
def test_an_option_that_is_none_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        CrossAttentionConfig(**changes)


def check_gated_block(media_index: list[list[int]], config: CrossAttentionConfig) -> None:
    width, visual_width = 6, 10
    block = GatedCrossAttentionBlock(width, visual_width, config)
    draw_weights(block, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(len(media_index), len(media_index[0]), width, generator=generator)
    visual_tokens = torch.randn(len(media_index), NUM_MEDIA, LATENTS, visual_width, generator=generator)
    runs = media_runs(media_index, NUM_MEDIA, torch.device("cpu"), config.attend_to)
    inputs = [text.requires_grad_(), visual_tokens.requires_grad_(), *block.parameters()]
    output = block(text, block.keys_values(visual_tokens), runs)
    found = gradients(output, inputs)

    block.double()
    exact = [text.detach().double().requires_grad_(), visual_tokens.detach().double().requires_grad_()]
    expected = reference.gated_block(*exact, media_index, block, config.attend_to)
    assert_all_close([output], [expected])
    assert_all_close(found, gradients(expected, [*exact, *block.parameters()]), 1e-4)


@each_backend
def test_plain_attention_equals_the_slow_twin(backend: Backend) -> None:
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(2, length, HEADS, DIM_HEAD, generator=generator) for length in (3, 7, 7))
    expected = [
        [reference.attend_one(query[r, s, h].double(), list(keys[r, :, h].double()), list(values[r, :, h].double()))
         for h in range(HEADS)]
        for r in range(2) for s in range(3)
    ]  # fmt: skip
    stacked = torch.stack([torch.stack(heads) for heads in expected]).unflatten(0, (2, 3))
    assert_all_close([attend(query, keys, values, backend)], [stacked], 1e-6)


@each_backend
def test_large_scores_do_not_overflow(backend: Backend) -> None:
    query, keys, values = tensors([[1, 1]])
    runs = media_runs([[1, 1]], NUM_MEDIA, torch.device("cpu"))
    output = cross_attend(query * 1e4, keys, values, runs, backend)
    expected = reference.cross_attention(query.double() * 1e4, keys.double(), values.double(), [[1, 1]])
    assert_all_close([output], [expected])


@each_backend
def test_text_before_any_medium_gets_exactly_zero(backend: Backend) -> None:
    media_index = [[0, 0, 1, 0]]
    output = cross_attend(*tensors(media_index), media_runs(media_index, NUM_MEDIA, torch.device("cpu")), backend)
    assert output[0].abs().sum((1, 2)).ne(0).tolist() == [False, False, True, False]


def test_without_any_medium_the_output_is_zero() -> None:
    query, keys, values = tensors([[0, 0]])
    assert torch.equal(cross_attend(query, keys, values, None), torch.zeros_like(query))


@each_backend
def test_changing_a_medium_changes_only_the_tokens_that_belong_to_it(backend: Backend) -> None:
    media_index = [[0, 1, 1, 2, 3, 2]]
    query, keys, values = tensors(media_index)
    runs = media_runs(media_index, NUM_MEDIA, torch.device("cpu"))
    other_keys, other_values = keys.detach().clone(), values.detach().clone()
    other_keys[0, 1] += 1.5
    other_values[0, 1] *= -2
    change = cross_attend(query, keys, values, runs, backend) - cross_attend(
        query, other_keys, other_values, runs, backend
    )
    assert change[0].abs().amax((1, 2)).ne(0).tolist() == [False, False, False, True, False, True]


def test_the_output_has_the_type_of_the_query() -> None:
    query, keys, values = (one.detach().bfloat16() for one in tensors([[0, 1]]))
    output = cross_attend(query, keys, values, media_runs([[0, 1]], NUM_MEDIA, torch.device("cpu")))
    assert output.dtype == torch.bfloat16


def test_text_is_cut_into_runs_and_similar_ones_go_together() -> None:
    runs = media_runs([[0, 2, 2, 2], [1, 1, 0, 1]], num_media=2, device=torch.device("cpu"))
    assert runs is not None
    assert (runs.lengths, runs.media_per_run) == ((3, 2, 1), (1, 1, 1))
    assert runs.target is not None and runs.target.tolist() == [1, 2, 3, 4, 5, 7]
    similar, short = runs.groups
    assert (similar.shape, short.shape) == ((2, 3), (1, 1))
    assert similar.text is not None and similar.text.tolist() == [1, 2, 3, 4, 5, 4]  # a shorter one repeats its start
    assert similar.real is not None and similar.real.tolist() == [0, 1, 2, 3, 4]
    assert similar.media is not None and similar.media.tolist() == [1, 2]  # into [B * M]: row 0's second, row 1's first
    assert short.text is not None and short.text.tolist() == [7]


def test_long_runs_of_different_lengths_are_taken_one_by_one_on_a_cpu() -> None:
    index = [[0, 0] + [1] * 40 + [3] * 6, [2] * 10 + [1] * 20 + [0] * 18]
    runs = media_runs(index, num_media=3, device=torch.device("cpu"))
    assert runs is not None
    assert runs.pieces == ((2, None), (40, 0), (6, 2), (10, 4), (20, 3), (18, None))


@pytest.mark.parametrize("index", [[[1, 1, 1, 2, 3, 3]], [[0] + [1] * 40 + [2] * 40]], ids=str)
def test_short_runs_and_runs_of_one_length_go_together(index: list[list[int]]) -> None:
    runs = media_runs(index, num_media=3, device=torch.device("cpu"))
    assert runs is not None and runs.pieces is None


def test_padding_is_less_than_the_text_itself() -> None:
    lengths = [1, 3, 40, 17, 5, 5, 64, 2, 9, 33]
    index = [medium + 1 for medium, length in enumerate(lengths) for _ in range(length)]
    runs = media_runs([index], num_media=len(lengths), device=torch.device("cpu"))
    assert runs is not None
    assert sum(rows * longest for rows, longest in (group.shape for group in runs.groups)) < 2 * len(index)


def test_runs_of_one_length_that_cover_the_text_need_no_copies() -> None:
    runs = media_runs([[1, 1, 2, 2], [1, 1, 2, 2]], num_media=2, device=torch.device("cpu"))
    assert runs is not None and runs.target is None
    (group,) = runs.groups
    assert (group.shape, group.text, group.real, group.media) == ((4, 2), None, None, None)


def test_a_run_may_attend_to_all_previous_media() -> None:
    runs = media_runs([[0, 1, 2, 2]], num_media=3, device=torch.device("cpu"), attend_to="all_previous")
    assert runs is not None
    media = [group.media.tolist() for group in runs.groups if group.media is not None]
    assert sorted(media) == [[0], [0, 1]]
    assert sorted(runs.media_per_run) == [1, 2]


@pytest.mark.parametrize("media_index", [[[0, 0], [0, 0]], [[]]])
def test_text_without_media_has_no_runs(media_index: list[list[int]]) -> None:
    assert media_runs(media_index, num_media=1, device=torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("media_index", "message"),
    [
        ([[0, 1], [1, 3]], "token 1 of row 1 refers to medium 3, but 2 media were given"),
        ([[-1]], "token 0 of row 0 refers to medium -1"),
    ],
)
def test_an_index_without_its_medium_is_refused(media_index: list[list[int]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        media_runs(media_index, num_media=2, device=torch.device("cpu"))


def test_xformers_without_cuda_is_refused_with_the_remedy() -> None:
    query, keys, values = tensors([[1]])
    with pytest.raises(ModelError, match=r"'xformers' cannot run: it needs CUDA, but .*on cpu; .*backend 'auto'"):
        cross_attend(query, keys, values, media_runs([[1]], NUM_MEDIA, torch.device("cpu")), "xformers")


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'flash' is unknown; choose one of auto, math, sdpa, xformers"):
        choose_backend("flash", torch.zeros(1, 1, 1, 1), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "trains", "expected"),
    [
        (torch.float32, True, "sdpa"),
        (torch.float32, False, "sdpa"),
        (torch.bfloat16, True, "math"),
        (torch.bfloat16, False, "sdpa"),
    ],
)
def test_on_cpu_gradients_in_half_precision_take_plain_arithmetic(
    dtype: torch.dtype, trains: bool, expected: str
) -> None:
    query = torch.zeros(1, 4, 1, 8, dtype=dtype, requires_grad=trains)
    assert choose_backend("auto", query, 4) == expected
    with torch.no_grad():
        assert choose_backend("auto", query, 4) == "sdpa"


@pytest.mark.parametrize("backend", ["auto", "math", "sdpa"])
def test_what_ran_is_reported(backend: Backend) -> None:
    query, keys, values = tensors([[1, 2, 2]])
    runs = media_runs([[1, 2, 2]], NUM_MEDIA, torch.device("cpu"))
    with backends_that_ran() as ran:
        cross_attend(query, keys, values, runs, backend)
        attend(query, query, query, backend)
        cross_attend(query, keys, values, None, backend)  # nothing runs
    assert ran == {"sdpa" if backend == "auto" else backend: 2}
    attend(query, query, query, backend)
    assert sum(ran.values()) == 2  # not counted any more


# On CUDA: xformers against the twin, and what `auto` takes.

HALF_TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-3}  # its kernels may round to TF32


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@each_reach
@each_layout
def test_xformers_and_its_gradients_equal_the_slow_twin_on_cuda(
    media_index: list[list[int]], attend_to: AttendTo, dtype: torch.dtype
) -> None:
    shapes = [(len(media_index), len(media_index[0]), HEADS, 8), *[(len(media_index), NUM_MEDIA, 8, HEADS, 8)] * 2]
    generator = torch.Generator().manual_seed(0)
    rounded = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    inputs = [one.cuda().requires_grad_() for one in rounded]
    exact_inputs = [one.double().requires_grad_() for one in rounded]
    runs = media_runs(media_index, NUM_MEDIA, torch.device("cuda"), attend_to)
    with backends_that_ran() as ran:
        found = cross_attend(*inputs, runs, "xformers")
    assert ran == {"xformers": 1}
    expected = reference.cross_attention(*exact_inputs, media_index, attend_to)
    assert_all_close([found.cpu()], [expected], HALF_TOLERANCE[dtype])
    grads = [one.cpu() for one in gradients(found, inputs)]
    assert_all_close(grads, gradients(expected, exact_inputs), 2 * HALF_TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize(("length", "expected"), [(1, "sdpa"), (2, "xformers")])
def test_on_cuda_auto_takes_xformers_for_more_than_one_token(length: int, expected: str) -> None:
    query = torch.zeros(1, length, 1, 64, device="cuda", dtype=torch.bfloat16)
    assert choose_backend("auto", query, length) == expected


@pytest.mark.gpu
def test_on_cuda_a_type_without_a_kernel_goes_through_pytorch_and_forcing_says_why() -> None:
    query = torch.zeros(1, 4, 1, 64, device="cuda", dtype=torch.float64)
    assert choose_backend("auto", query, 4) == "sdpa"
    with pytest.raises(ModelError, match=r"'xformers' cannot run: it has no kernel for torch\.float64"):
        choose_backend("xformers", query, 4)
