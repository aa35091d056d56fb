"""Every backend against a slow twin in float64, forward and gradients."""

import pytest
import torch
from torch import Tensor

from tests.reference import attention as reference
from tests.tiny import draw_weights
from videoflamingo.errors import ModelError
from videoflamingo.models.attention import Backend, attend, choose_backend, cross_attend, media_runs
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
}
each_layout = pytest.mark.parametrize("media_index", LAYOUTS.values(), ids=LAYOUTS.keys())
each_backend = pytest.mark.parametrize("backend", ["math", "sdpa"])


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
@each_layout
def test_cross_attention_and_its_gradients_equal_the_slow_twin(media_index: list[list[int]], backend: Backend) -> None:
    inputs = tensors(media_index)
    exact_inputs = [one.detach().double().requires_grad_() for one in inputs]
    output = cross_attend(*inputs, media_runs(media_index, NUM_MEDIA, torch.device("cpu")), backend)
    expected = reference.cross_attention(*exact_inputs, media_index)
    assert_all_close([output], [expected])
    assert_all_close(gradients(output, list(inputs)), gradients(expected, exact_inputs))


@each_backend
@each_layout
def test_a_gated_block_and_its_gradients_equal_the_slow_twin(media_index: list[list[int]], backend: Backend) -> None:
    check_gated_block(media_index, CrossAttentionConfig(num_heads=HEADS, dim_head=DIM_HEAD, backend=backend))


@pytest.mark.parametrize("changes", [{"activation": "gelu"}, {"norm_media": False}], ids=str)
def test_a_gated_block_as_openflamingo_has_it_equals_the_slow_twin(changes: dict) -> None:
    check_gated_block([[0, 1, 1, 2]], CrossAttentionConfig(num_heads=HEADS, dim_head=DIM_HEAD, **changes))


def check_gated_block(media_index: list[list[int]], config: CrossAttentionConfig) -> None:
    width, visual_width = 6, 10
    block = GatedCrossAttentionBlock(width, visual_width, config)
    draw_weights(block, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(len(media_index), len(media_index[0]), width, generator=generator)
    visual_tokens = torch.randn(len(media_index), NUM_MEDIA, LATENTS, visual_width, generator=generator)
    runs = media_runs(media_index, NUM_MEDIA, torch.device("cpu"))
    inputs = [text.requires_grad_(), visual_tokens.requires_grad_(), *block.parameters()]
    output = block(text, block.keys_values(visual_tokens), runs)
    found = gradients(output, inputs)

    block.double()
    exact = [text.detach().double().requires_grad_(), visual_tokens.detach().double().requires_grad_()]
    expected = reference.gated_block(*exact, media_index, block)
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


def test_text_is_cut_into_runs() -> None:
    runs = media_runs([[0, 2, 2, 2], [1, 1, 0, 1]], num_media=2, device=torch.device("cpu"))
    assert runs is not None
    assert runs.lengths == (3, 2, 1)
    assert runs.media.tolist() == [1, 2, 2]  # into [B * M]: the second of row 0, the first of row 1 twice
    assert runs.text.tolist() == [[1, 2, 3], [4, 5, 4], [7, 7, 7]]  # into [B * L], shorter runs repeat their start
    assert runs.text.flatten()[runs.real].tolist() == [1, 2, 3, 4, 5, 7]


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
    with pytest.raises(ModelError, match=r"needs CUDA and the xformers package.*on cpu.*backend 'auto'"):
        cross_attend(query, keys, values, media_runs([[1]], NUM_MEDIA, torch.device("cpu")), "xformers")


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'flash' is unknown; choose one of auto, math, sdpa, xformers"):
        choose_backend("flash", torch.zeros(1, 1, 1, 1), 1, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "expected"), [(8, "math"), (1 << 16, "sdpa")])
def test_on_cpu_short_texts_take_plain_arithmetic(length: int, expected: str) -> None:
    assert choose_backend("auto", torch.zeros(1, 1, 1, 1), num_keys=64, query_length=length) == expected


@pytest.mark.gpu
@each_layout
def test_xformers_equals_plain_arithmetic_on_cuda(media_index: list[list[int]]) -> None:
    inputs = [one.detach().cuda().requires_grad_() for one in tensors(media_index)]
    runs = media_runs(media_index, NUM_MEDIA, torch.device("cuda"))
    expected, found = (cross_attend(*inputs, runs, backend) for backend in ("math", "xformers"))
    assert_all_close([found], [expected], 1e-3)  # its kernels may round to TF32
    assert_all_close(gradients(found, inputs), gradients(expected, inputs), 1e-2)
