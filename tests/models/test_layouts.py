"""The paper's layouts against closed formulas, the published numbers, and what docs/paper_layouts.md says of them."""

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from benchmarks import paper_layouts as report
from tests.tiny import tiny_flamingo
from videoflamingo.errors import ModelError
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.models.layouts import (
    PAPER_SIZES,
    PaperModel,
    PaperVersion,
    count_parameters,
    paper_layout,
    untrained_flamingo,
    untrained_language_model,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "paper_layouts.md"
MODELS: tuple[PaperModel, ...] = get_args(PaperModel)
VERSIONS: tuple[PaperVersion, ...] = get_args(PaperVersion)
VISUAL, CHANNELS = 1536, 3072  # width of visual tokens, and of the tower's features


@functools.cache
def built(name: PaperModel, version: PaperVersion = "v2") -> Flamingo:
    return untrained_flamingo(name, version)


@functools.cache
def counts() -> report.Counts:
    return {name: {version: count_parameters(built(name, version)) for version in VERSIONS} for name in MODELS}


def tables_of_the_page() -> dict[str, dict[str, dict[str, str]]]:
    """First column's title -> row -> column -> cell; of the columns called `paper`, the last."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    title, columns = "", []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            columns = []
        elif not columns:
            title, *columns = cells
            tables[title] = {}
        elif not cells[0].startswith("---"):
            tables[title][cells[0]] = dict(zip(columns, cells[1:], strict=True))
    return tables


def rounded_like(number: int, published: str) -> str:
    """The number with as many digits after the point as the published one: 1157898288 like `1.2B` is `1.2B`."""
    match = re.fullmatch(r"\d+(?:\.(\d+))?([MB])", published)
    assert match is not None, published
    return f"{number / {'M': 1e6, 'B': 1e9}[match[2]]:.{len(match[1] or '')}f}{match[2]}"


# ------------------------------------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("3B", tuple(range(24))),
        ("9B", (0, 4, 8, 12, 16, 20, 24, 28, 32, 36)),
        ("80B", (0, 7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77)),
    ],
)
def test_gated_blocks_sit_where_the_paper_puts_them(name: PaperModel, places: tuple[int, ...]) -> None:
    assert built(name).block_layers == places
    assert len(built(name).blocks) == len(places)


@pytest.mark.parametrize(("name", "width", "heads"), [("3B", 2048, 16), ("9B", 4096, 32), ("80B", 8192, 64)])
def test_gated_blocks_have_the_language_models_width_and_heads_of_128(name: PaperModel, width: int, heads: int) -> None:
    for block in built(name).blocks:
        assert block.heads_shape == (heads, 128)
        assert block.to_query.weight.shape == (heads * 128, width)
        assert block.to_keys.weight.shape == (heads * 128, VISUAL)


def test_the_versions_differ_in_the_width_of_the_resamplers_heads_only() -> None:
    for name in MODELS:
        v1, v2 = paper_layout(name, "v1"), paper_layout(name)
        assert (v1.resampler.dim_head, v2.resampler.dim_head) == (128, 96)
        assert replace(v1, resampler=replace(v1.resampler, dim_head=96)) == v2


def test_all_three_models_have_the_same_resampler_and_tower() -> None:
    layouts = [paper_layout(name) for name in MODELS]
    assert len({layout.resampler for layout in layouts}) == len({layout.vision for layout in layouts}) == 1


def test_a_picture_of_320_pixels_becomes_100_features_of_3072_channels() -> None:
    assert (built("3B").vision.num_patches, built("3B").vision.width) == (100, CHANNELS)


def test_unknown_models_and_versions_are_refused() -> None:
    with pytest.raises(ModelError, match="model is '7B'; the paper's are 3B, 9B, 80B"):
        paper_layout("7B")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="model is '4B'; the paper's are 3B, 9B, 80B"):
        untrained_language_model("4B")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="version is 'v3'; the paper's are v1, v2"):
        paper_layout("3B", "v3")  # type: ignore[arg-type]


def test_loading_a_layouts_language_model_says_that_it_is_closed() -> None:
    with pytest.raises(ModelError, match=r"Chinchilla 1\.4B, closed: give language_model and tokenizer"):
        Flamingo(paper_layout("3B"))


# ------------------------------------------------------------------------------------------ models without weights


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_weights_takes_no_memory(name: PaperModel) -> None:
    tensors = {**dict(built(name).named_parameters()), **dict(built(name).named_buffers())}
    assert [key for key, tensor in tensors.items() if not tensor.is_meta] == []


@pytest.mark.parametrize("name", MODELS)
def test_the_language_model_has_the_sizes_of_the_table(name: PaperModel) -> None:
    settings, sizes = built(name).language_model.config, PAPER_SIZES[name]
    assert (settings.num_hidden_layers, settings.hidden_size, settings.num_attention_heads) == (
        sizes.layers,
        sizes.width,
        sizes.heads,
    )
    assert settings.hidden_size // settings.num_attention_heads == 128
    assert (settings.intermediate_size, settings.hidden_act) == (4 * sizes.width, "gelu")


def test_building_without_weights_leaves_the_default_device_alone() -> None:
    built("3B")
    assert torch.empty(1).device.type == "cpu"


def test_a_model_without_weights_reads_no_text() -> None:
    with pytest.raises(ModelError, match="without a tokenizer and cannot read 'hello'"):
        built("3B").tokenize("hello")


# ---------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("name", MODELS)
def test_the_language_model_counts_what_the_formula_says(name: PaperModel) -> None:
    width, layers = PAPER_SIZES[name].width, PAPER_SIZES[name].layers
    maps = 4 * width**2 + 8 * width**2  # attention; feed-forward
    biases = (3 + 1) * width + (4 + 1) * width
    layer = maps + biases + 2 * 2 * width  # two norms
    assert counts()[name]["v2"].language_model == 32_000 * width + layers * layer + 2 * width


@pytest.mark.parametrize(("name", "num_blocks", "width"), [("3B", 24, 2048), ("9B", 10, 4096), ("80B", 12, 8192)])
def test_gated_blocks_count_what_the_formula_says(name: PaperModel, num_blocks: int, width: int) -> None:
    inner = width  # heads of 128, as many as make the language width
    attention = 2 * width * inner + 2 * VISUAL * inner  # query and output; keys and values
    norms = 2 * width + 2 * VISUAL + 2 * width  # of text, of media, of the feed-forward
    assert counts()[name]["v2"].gated_blocks == num_blocks * (attention + 8 * width**2 + norms + 2)  # two gates


@pytest.mark.parametrize(("version", "dim_head"), [("v1", 128), ("v2", 96)])
def test_the_resampler_counts_what_the_formula_says(version: PaperVersion, dim_head: int) -> None:
    attention = 4 * VISUAL * 16 * dim_head
    layer = attention + 8 * VISUAL**2 + 3 * 2 * VISUAL  # norms of media, latents and feed-forward
    projection = CHANNELS * VISUAL + VISUAL
    expected = projection + (8 + 64) * VISUAL + 6 * layer + 2 * VISUAL  # 8 time embeddings, 64 latents
    assert {counts()[name][version].resampler for name in MODELS} == {expected}


def test_the_tower_counts_what_timm_has_without_a_classifier() -> None:
    ours = counts()["3B"]["v2"].tower
    import timm  # after a tower was built, which declares the operators it needs

    with torch.device("meta"):
        theirs = timm.create_model("dm_nfnet_f6", num_classes=0)
    assert ours == sum(parameter.numel() for parameter in theirs.parameters())


def test_the_parts_of_a_real_model_add_up_to_all_its_parameters() -> None:
    model = tiny_flamingo()
    assert count_parameters(model).total == sum(parameter.numel() for parameter in model.parameters())


# The published numbers that the published sizes give, and those they do not (docs/paper_layouts.md says why).
AGREE = {"3B gated_blocks", "3B resampler", "9B resampler", "80B resampler", "3B tower", "9B tower", "80B tower"}


def test_v1_agrees_with_the_published_numbers_where_the_page_says_so() -> None:
    agree = set()
    for part in ("language_model", "gated_blocks", "resampler", "tower", "total"):
        for name, published in zip(MODELS, report.PUBLISHED[part.replace("_", " ")], strict=True):
            in_the_table = published.split()[0]
            if rounded_like(getattr(counts()[name]["v1"], part), in_the_table) == in_the_table:
                agree.add(f"{name} {part}")
    assert agree == AGREE


def test_with_heads_of_96_the_resampler_is_175_million() -> None:
    assert rounded_like(counts()["3B"]["v2"].resampler, "194M") == "175M"


def test_the_other_reading_gives_every_published_number_with_32_layers_in_9b() -> None:
    for part, columns in report.readings(counts()).items():
        numbers = [columns["3B"], columns["9B of 32 layers"], columns["80B"]]
        in_the_table = [published.split()[0] for published in report.PUBLISHED[part]]
        assert [rounded_like(*pair) for pair in zip(numbers, in_the_table, strict=True)] == in_the_table, part


# ------------------------------------------------------------------------------------------ the page and the program


def test_the_pages_counts_are_what_the_code_counts() -> None:
    rows = tables_of_the_page()["part"]
    seen = set()
    for label, cells in rows.items():
        part, _, version = label.partition(", ")
        seen.add(part)
        for name in MODELS:
            counted = counts()[name]
            for each in [version] if version else VERSIONS:  # a row without a version is of both
                assert int(cells[name].replace(",", "")) == getattr(counted[each], part.replace(" ", "_")), label
    assert seen == set(report.PUBLISHED)
    assert {"resampler, v1", "resampler, v2", "total, v1", "total, v2"} <= set(rows)


def test_the_pages_other_reading_is_what_the_formulas_give() -> None:
    rows = tables_of_the_page()["another reading"]
    layers = {"3B": (24, 2048, 24), "9B": (40, 4096, 10), "9B of 32 layers": (32, 4096, 8), "80B": (80, 8192, 12)}
    for column, (num_layers, width, num_blocks) in layers.items():
        language_model, blocks = 13 * num_layers * width**2 + 32_000 * width, 12 * num_blocks * width**2
        bridge = counts()["3B"]["v1"]
        assert rows["language model"][column] == f"{language_model / 1e9:.2f}B"
        assert rows["gated blocks"][column] == f"{blocks / 1e9:.2f}B"
        total = language_model + blocks + bridge.resampler + bridge.tower
        assert rows["total"][column] == f"{total / 1e9:.2f}B"


def test_the_page_shows_what_the_program_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "measured", counts)
    assert report.main([]) == 0
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in PAGE.read_text("utf-8")


def test_the_program_prints_the_counts_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "measured", counts)
    assert report.main(["--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    for name in MODELS:
        for version in VERSIONS:
            assert printed["counts"][name][version]["gated_blocks"] == counts()[name][version].gated_blocks
            assert printed["counts"][name][version]["total"] == counts()[name][version].total
