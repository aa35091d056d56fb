"""Against what OpenFlamingo's own code computed (tests/golden/make_openflamingo.py), through a converted checkpoint."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tests.golden.drawn import drawn
from tests.tiny import tiny_tokenizer
from videoflamingo.errors import ModelError
from videoflamingo.generation import generate
from videoflamingo.models.attention import media_runs
from videoflamingo.models.checkpoint import load_trainable, save_checkpoint
from videoflamingo.models.cross_attention import CrossAttentionConfig, GatedCrossAttentionBlock
from videoflamingo.models.flamingo import Flamingo
from videoflamingo.models.openflamingo import convert_openflamingo, default_vision, read_openflamingo
from videoflamingo.models.resampler import PerceiverResampler, ResamplerConfig
from videoflamingo.models.vision import VisionConfig
from videoflamingo.prompt import EncodedPrompt
from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()
import transformers  # noqa: E402  (its import needs the declaration above)

with safe_open(Path(__file__).parents[1] / "golden" / "openflamingo.safetensors", "pt") as opened:
    GOLDEN = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (it is no dictionary)
    ABOUT = json.loads(opened.metadata()["about"])

VOCABULARY, IMAGE, END = 40, 41, 40
TOWER = VisionConfig("random:test_vit", image_size=64)  # as wide as the golden one; features come from the file
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
each_family = pytest.mark.parametrize("family", ABOUT["families"])


def openflamingo_state(family: str) -> dict[str, Tensor]:
    """What OpenFlamingo's saver kept of the golden model."""
    about = ABOUT["families"][family]
    state = {
        name: torch.from_numpy(drawn(name.replace("decoder_layer.", ""), shape))
        for name, shape in about["saved"].items()
    }
    with torch.no_grad():
        state[about["output_key"]][END] *= 2
    return state


def language_model(family: str) -> Any:
    """The frozen model with the golden one's weights, its vocabulary apart."""
    about = ABOUT["families"][family]
    config = getattr(transformers, about["config_class"])(**about["settings"])
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(drawn(f"lang_encoder.{name}", parameter.shape)))
    return model


def converted_model(family: str, folder: Path) -> Flamingo:
    """Through a checkpoint file of OpenFlamingo's, our converter, and a checkpoint folder of ours."""
    torch.save(openflamingo_state(family), folder / "checkpoint.pt")
    state = read_openflamingo(folder / "checkpoint.pt")
    config, trained = convert_openflamingo(state, "(given)", vocabulary_size=VOCABULARY, vision=TOWER)
    models = [Flamingo(config, language_model(family), tiny_tokenizer()).eval() for _ in range(2)]
    expected = models[0].trainable_state()
    assert expected.keys() == trained.keys()
    for key, value in expected.items():
        value.copy_(trained[key])
    load_trainable(models[1], save_checkpoint(models[0], folder, torch.float32))
    return models[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Flamingo]:
    return {family: converted_model(family, tmp_path_factory.mktemp(family)) for family in ABOUT["families"]}


def media_index(ids: list[int]) -> list[int]:
    """As OpenFlamingo counts: each image tag begins the text of its picture."""
    return torch.tensor(ids).eq(IMAGE).cumsum(0).tolist()


def fill(module: nn.Module, values: dict[str, Tensor]) -> Any:
    module.load_state_dict(values)
    return module.eval()


@pytest.mark.parametrize("name", ["resampler", "resampler_frames"])
def test_the_resampler_gives_openflamingos_visual_tokens(name: str) -> None:
    """With pictures, and with frame embeddings for media of several frames."""
    features, expected = GOLDEN[f"{name}.features"], GOLDEN[f"{name}.output"]
    frames = features.shape[2]
    names = {"0.norm_media": "norm_media", "0.norm_latents": "norm_latents", "0.to_q": "to_query"}
    names |= {"0.to_kv": "to_keys_values", "0.to_out": "to_output", "1.0": "feed_forward.norm"}
    names |= {"1.1": "feed_forward.expand", "1.3": "feed_forward.contract"}
    config = ResamplerConfig(5, 2, 24, 3, 8, activation="gelu", num_frames=frames)
    resampler = PerceiverResampler(24, 6, config)
    theirs = {ours: ours for ours in ("latents", "norm.weight", "norm.bias")}
    for layer in range(2):
        for their, ours in names.items():
            for kind in ("weight", "bias"):
                theirs[f"layers.{layer}.{ours}.{kind}"] = f"layers.{layer}.{their}.{kind}"
    state = {
        key: torch.from_numpy(drawn(f"{name}.{theirs[key]}", value.shape))
        for key, value in resampler.state_dict().items()
        if key != "time"
    }
    time = torch.zeros(1, 24)
    if frames > 1:  # OpenFlamingo reads the first entries of its table, ours would interpolate all four
        time = torch.from_numpy(drawn(f"{name}.frame_embs", (4, 24)))[:frames]
    fill(resampler, {**state, "time": time})
    with torch.no_grad():
        found = resampler(features.flatten(0, 1)).unflatten(0, expected.shape[:2])
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("attend_to", ["own", "all_previous"])
@pytest.mark.parametrize("backend", ["math", "sdpa"])
def test_the_gated_block_gives_openflamingos_text(attend_to: Any, backend: Any) -> None:
    """Rows of 0 to 5 media, with two tokens before the first."""
    config = CrossAttentionConfig(
        num_heads=3, dim_head=8, activation="gelu", norm_media=False, attend_to=attend_to, backend=backend
    )
    block = GatedCrossAttentionBlock(24, 20, config)
    names = {"norm_text": "attn.norm", "to_query": "attn.to_q", "to_output": "attn.to_out"}
    names |= {"feed_forward.norm": "ff.0", "feed_forward.expand": "ff.1", "feed_forward.contract": "ff.3"}
    names |= {"attention_gate": "attn_gate", "feed_forward_gate": "ff_gate"}
    keys, values = torch.from_numpy(drawn("block.attn.to_kv.weight", (48, 20))).chunk(2)
    state = {"to_keys.weight": keys, "to_values.weight": values}
    for key, value in block.state_dict().items():
        if key not in state:
            part, _, kind = key.rpartition(".")
            their = names[key] if key in names else f"{names[part]}.{kind}"
            state[key] = torch.from_numpy(drawn(f"block.{their}", value.shape))
    fill(block, state)
    index = GOLDEN["block.places"].long().cumsum(1)
    runs = media_runs(index.tolist(), 5, torch.device("cpu"), attend_to)
    with torch.no_grad():
        found = block(GOLDEN["block.text"], block.keys_values(GOLDEN["block.media"]), runs)
    name = "block" if attend_to == "own" else "block_all_previous"
    # Attending to all previous media, OpenFlamingo lets text before the first attend to all that follow: a leak of the
    # future that we do not copy.
    same = torch.ones_like(index, dtype=torch.bool) if attend_to == "own" else index > 0
    torch.testing.assert_close(found[same], GOLDEN[f"{name}.output"][same], **TOLERANCE)


def test_the_towers_patch_tokens_are_those_openflamingo_reads() -> None:
    """A ViT of open_clip's 3.3 against timm's with the same weights: patch tokens behind the final norm."""
    import timm
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    assert timm.__version__
    sizes = ABOUT["tower"]
    backbone = VisionTransformer(
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        embed_dim=sizes["width"],
        depth=sizes["layers"],
        num_heads=sizes["heads"],
        num_classes=sizes["output_dim"],
        pre_norm=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )
    theirs = {
        f"visual.{name}": torch.from_numpy(drawn(f"vision_encoder.{name}", shape))
        for name, shape in ABOUT["tower_weights"].items()
    }
    backbone.load_state_dict(checkpoint_filter_fn(theirs, backbone))
    with torch.no_grad():
        found = backbone.eval().forward_features(GOLDEN["pixels"].flatten(0, 2))[:, 1:]
    torch.testing.assert_close(found, GOLDEN["features"], **TOLERANCE)


def visual_tokens(model: Flamingo) -> Tensor:
    index = torch.arange(20).view(4, 5, 1)
    with torch.no_grad():
        return model.resample(GOLDEN["features"], index)


@each_family
def test_a_converted_model_has_openflamingos_visual_tokens(models: dict[str, Flamingo], family: str) -> None:
    torch.testing.assert_close(visual_tokens(models[family]), GOLDEN["visual_tokens"], **TOLERANCE)


@each_family
def test_a_converted_model_has_openflamingos_logits(models: dict[str, Flamingo], family: str) -> None:
    """0, 1, 2 and 5 media, text before the first one, and padding."""
    model, rows = models[family], ABOUT["texts"]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    index = torch.tensor([media_index(row) + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        found = model(ids, index, visual_tokens=visual_tokens(model), attention_mask=mask).logits
    real = mask == 1
    expected = GOLDEN[f"{family}.logits"]
    assert expected[real].std() > 0.3
    torch.testing.assert_close(found[real], expected[real], **TOLERANCE)


DECODING = {
    "greedy": {"num_beams": 1},
    "beam3": {"num_beams": 3},
    "beam3_sums": {"num_beams": 3, "length_penalty": 0.0},
    "beam3_short": {"num_beams": 3, "length_penalty": -2.0},
}


@each_family
@pytest.mark.parametrize("name", DECODING)
def test_a_converted_model_generates_openflamingos_tokens(models: dict[str, Flamingo], family: str, name: str) -> None:
    """A batch of prompts of different lengths with 1, 2 and 0 media."""
    model = models[family]
    prompts = [EncodedPrompt(row, media_index(row), [False] * len(row), row.count(IMAGE)) for row in ABOUT["prompts"]]
    found = generate(
        model,
        prompts,
        visual_tokens(model)[:3, :2],
        max_new_tokens=ABOUT["new_tokens"],
        stop_token_ids=(END,),
        **DECODING[name],
    )
    expected = []
    for row in GOLDEN[f"{family}.{name}"].tolist():
        end = row.index(END) + 1 if END in row else len(row)
        expected.append(row[:end])
    assert [one.token_ids for one in found] == expected


def test_the_golden_answers_differ_and_some_of_them_end() -> None:
    """Or equality would show little."""
    answers = [GOLDEN[f"{family}.{name}"].tolist() for family in ABOUT["families"] for name in DECODING]
    rows = [tuple(row) for answer in answers for row in answer]
    assert len(set(rows)) > 20
    assert sum(END in row[1:] for row in rows) > 5


# Files as they are found.


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_wrappers_prefixes_and_what_else_files_hold_make_no_difference(tmp_path: Path, family: str) -> None:
    state = openflamingo_state(family)
    path = "model.layers" if family == "llama" else "gpt_neox.layers"
    more = {
        "lang_encoder.gated_cross_attn_layers.3.attn_gate": torch.ones(1),
        "vision_encoder.conv1.weight": torch.ones(2, 2),
        f"lang_encoder.{path}.0.decoder_layer.attention.rotary_emb.inv_freq": torch.ones(4),
        f"lang_encoder.{path}.0.decoder_layer.mlp.dense.weight": torch.ones(4, 4),
    }
    wrapped = {f"module.{name}": value for name, value in {**state, **more}.items()}
    torch.save({"epoch": 3, "model_state_dict": wrapped, "optimizer_state_dict": {}}, tmp_path / "wrapped.pt")
    one, other = (
        convert_openflamingo(read, "(given)", vocabulary_size=VOCABULARY, vision=TOWER)
        for read in (state, read_openflamingo(tmp_path / "wrapped.pt"))
    )
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][key], other[1][key]) for key in one[1])


@each_family
def test_schedule_and_sizes_follow_from_the_file(family: str) -> None:
    config, _ = convert_openflamingo(openflamingo_state(family), "some/model", vocabulary_size=VOCABULARY)
    every = ABOUT["families"][family]["every"]
    assert (config.cross_attention.first, config.cross_attention.every) == (every - 1, every)
    assert (config.cross_attention.num_heads, config.cross_attention.dim_head) == (8, 64)
    assert (config.resampler.num_latents, config.resampler.depth, config.resampler.width) == (64, 6, 64)
    assert config.new_tokens == ("<|endofchunk|>", "<image>", "<PAD>")
    assert config.tied_new_tokens == (family != "gpt_neox")
    assert config.vision == default_vision()


def test_an_image_tag_is_one_token_that_is_never_generated(models: dict[str, Flamingo]) -> None:
    assert models["llama"].media_tag_ids == [IMAGE]
    assert models["llama"].media_tag_spellings == [[IMAGE]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("perceiver.latents"), "missing perceiver.latents; unexpected nothing"),
        (lambda state: state.update({"other.weight": torch.ones(1)}), "missing nothing; unexpected other.weight"),
        (lambda state: state.pop("lang_encoder.model.embed_tokens.weight"), "missing a token embedding"),
    ],
)
def test_a_file_of_something_else_is_refused_with_what_is_missing(change: Any, message: str) -> None:
    state = openflamingo_state("llama")
    change(state)
    with pytest.raises(ModelError, match=f"the checkpoint is no OpenFlamingo checkpoint: {message}"):
        convert_openflamingo(state, "(given)", vocabulary_size=VOCABULARY)


def test_a_tokenizer_length_that_cannot_be_is_refused_with_the_count() -> None:
    with pytest.raises(ModelError, match="has 43 embedding rows and vocabulary_size is 43: that leaves 0 new tokens"):
        convert_openflamingo(openflamingo_state("llama"), "(given)", vocabulary_size=43)


def test_one_report_names_every_missing_weight() -> None:
    state = openflamingo_state("llama")
    del state["lang_encoder.model.layers.2.gated_cross_attn_layer.ff.1.weight"]
    del state["perceiver.layers.5.0.norm_media.bias"]
    with pytest.raises(ModelError) as caught:
        convert_openflamingo(state, "(given)")
    first, *missing = str(caught.value).splitlines()
    assert first == "the checkpoint is incomplete; missing:"
    assert missing == ["  resampler.layers.5.norm_media.bias", "  blocks.2.feed_forward.expand.weight"]


@each_family
def test_the_length_of_the_tokenizer_follows_from_the_family(family: str) -> None:
    """OPT's tokenizer has a padding token, so OpenFlamingo adds two tokens to it, and three to the others."""
    config, _ = convert_openflamingo(openflamingo_state(family), "(given)")
    assert config.vocabulary_size == (41 if family == "opt" else 40)


@pytest.mark.parametrize("content", [b"no pickle at all", b"", b"PK\x03\x04broken"])
def test_a_file_that_is_no_pickle_of_tensors_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"checkpoint\.pt cannot be read as a file of tensors"):
        read_openflamingo(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (eval, ("1/0",))

    torch.save({"weights": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match=r"checkpoint\.pt cannot be read as a file of tensors: .* it could run code"):
        read_openflamingo(tmp_path / "checkpoint.pt")
