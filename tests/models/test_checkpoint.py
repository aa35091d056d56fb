"""A checkpoint comes back as it was, and one that does not fit says so in one report."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import TINY_CONFIG, tiny_flamingo, tiny_language_model, tiny_tokenizer
from videoflamingo.errors import ModelError
from videoflamingo.models.checkpoint import load_checkpoint, load_trainable, read_config, save_checkpoint
from videoflamingo.models.flamingo import Flamingo, FlamingoConfig


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of the tiny model of seed 0, in float32."""
    return save_checkpoint(tiny_flamingo(0), tmp_path / "checkpoint", torch.float32)


def edit_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(checkpoint: Path, without: str | None = None, **more: torch.Tensor) -> None:
    path = checkpoint / "trainable.safetensors"
    state = {**load_file(path), **more}
    save_file({key: value for key, value in state.items() if key != without}, path)


def equal(one: Flamingo, other: Flamingo) -> bool:
    mine, theirs = one.trainable_state(), other.trainable_state()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_trained_weights_come_back_as_they_were(checkpoint: Path) -> None:
    other = tiny_flamingo(1)
    assert not equal(other, tiny_flamingo(0))
    load_trainable(other, checkpoint)
    assert equal(other, tiny_flamingo(0))


def test_the_configuration_comes_back_as_it_was(checkpoint: Path) -> None:
    assert read_config(checkpoint) == TINY_CONFIG


# Every option with a value that is not the tiny model's.
OPTIONS: dict[str, dict[str, Any]] = {
    "": {
        "language_model": "another",
        "media_tag": "<video>",
        "end_of_chunk": "<end>",
        "more_tokens": ("<image>", "<PAD>"),
        "tied_new_tokens": False,
        "vocabulary_size": 90,
        "own_vocabulary": True,
        "own_tower": True,
    },
    "vision": {
        "tower": "random:test_vit",
        "image_size": 96,
        "fit": "model",
        "standardise": True,
        "chunk_size": 2,
        "features": "before_norm",
    },
    "resampler": {
        "num_latents": 5,
        "depth": 1,
        "width": 16,
        "num_heads": 1,
        "dim_head": 4,
        "feed_forward_multiplier": 3.0,
        "activation": "gelu",
        "num_frames": 2,
        "position_embeddings": True,
        "frame_differences": True,
        "difference_hidden": 6,
        "correlation_radius": 1,
        "pooled_side": 2,
        "backend": "math",
    },
    "cross_attention": {
        "first": 0,
        "every": 3,
        "num_heads": 1,
        "dim_head": 4,
        "feed_forward_multiplier": 3.0,
        "activation": "gelu",
        "gating": "none",
        "gate_init": 0.2,
        "relative_to_text": True,
        "word_times": True,
        "norm_media": False,
        "attend_to": "all_previous",
        "backend": "math",
    },
}


def with_option(part: str, name: str, value: Any) -> FlamingoConfig:
    changes = {name: value}
    if name == "difference_hidden":
        changes["frame_differences"] = True  # which it needs
    if name == "features":
        changes["tower"] = "random:test_vit"  # whose features differ
    return replace(TINY_CONFIG, **({part: replace(getattr(TINY_CONFIG, part), **changes)} if part else changes))


@pytest.mark.parametrize(
    ("part", "name", "value"), [(part, *option) for part, options in OPTIONS.items() for option in options.items()]
)
def test_every_option_comes_back_with_its_weights(tmp_path: Path, part: str, name: str, value: Any) -> None:
    config = with_option(part, name, value)
    assert config != TINY_CONFIG
    model, other = (tiny_flamingo(seed, config=config) for seed in (0, 1))
    folder = save_checkpoint(model, tmp_path, torch.float32)
    assert read_config(folder) == config
    load_trainable(other, folder)
    assert equal(model, other)


def test_no_option_is_left_out_above() -> None:
    for part, options in OPTIONS.items():
        kind = getattr(TINY_CONFIG, part) if part else TINY_CONFIG
        assert {field.name for field in fields(kind)} - {"vision", "resampler", "cross_attention"} == set(options)


def test_a_value_that_is_none_is_refused_with_the_file(checkpoint: Path) -> None:
    edit_config(checkpoint, vision={"tower": "random:test_vit", "fit": "bend"})
    with pytest.raises(ModelError, match=r"config\.json: VisionConfig\.fit is 'bend'; choose "):
        read_config(checkpoint)


def test_a_checkpoint_is_a_whole_model_with_its_language_model_by_name(tmp_path: Path) -> None:
    language_folder = tmp_path / "language"
    language_model, tokenizer = tiny_language_model(len(tiny_tokenizer())), tiny_tokenizer()
    language_model.save_pretrained(language_folder)
    tokenizer.save_pretrained(language_folder)
    config = replace(TINY_CONFIG, language_model=str(language_folder))
    model = tiny_flamingo(language_model=language_model, config=config)
    folder = save_checkpoint(model, tmp_path / "checkpoint", torch.float32)
    loaded = load_checkpoint(folder)
    features, frame_index = torch.randn(2, 4, model.vision.width), torch.tensor([[[0, 1]]])
    one, other = (
        flamingo(
            torch.tensor([[5, 6, 7]]),
            torch.tensor([[0, 1, 1]]),
            visual_tokens=flamingo.resample(features, frame_index),
        ).logits
        for flamingo in (model, loaded)
    )
    assert torch.equal(one, other)
    assert not loaded.training


def test_the_standardisation_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    vision = replace(TINY_CONFIG.vision, standardise=True)
    model, other = tiny_flamingo(0, vision=vision), tiny_flamingo(0, vision=vision)
    model.vision.fit_standardisation(torch.randn(20, model.vision.width) * 3 + 1)
    load_trainable(other, save_checkpoint(model, tmp_path, torch.float32))
    assert torch.equal(other.vision.feature_mean, model.vision.feature_mean)
    assert torch.equal(other.vision.feature_std, model.vision.feature_std)


def test_no_frozen_weight_is_stored(checkpoint: Path) -> None:
    stored = load_file(checkpoint / "trainable.safetensors")
    trained = {name for name, parameter in tiny_flamingo().named_parameters() if parameter.requires_grad}
    assert stored.keys() == trained


def test_weights_are_stored_in_the_type_asked_for(tmp_path: Path) -> None:
    save_checkpoint(tiny_flamingo(), tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "trainable.safetensors").values()} == {torch.float16}


def test_saving_again_replaces_the_older_checkpoint(checkpoint: Path) -> None:
    save_checkpoint(tiny_flamingo(1), checkpoint, torch.float32)
    other = tiny_flamingo(0)
    load_trainable(other, checkpoint)
    assert equal(other, tiny_flamingo(1))
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "trainable.safetensors"]


def test_one_report_names_everything_that_does_not_fit(checkpoint: Path) -> None:
    edit_weights(
        checkpoint, without="resampler.latents", extra=torch.zeros(1), **{"resampler.time": torch.zeros(9, 24)}
    )
    with pytest.raises(ModelError) as caught:
        load_trainable(tiny_flamingo(), checkpoint)
    path, *problems = str(caught.value).splitlines()
    assert path == f"{checkpoint / 'trainable.safetensors'} does not fit the model:"
    assert problems == [
        "  missing: resampler.latents",
        "  unexpected: extra",
        "  misshaped: resampler.time is [9, 24], the model has [4, 24]",
    ]


def test_a_checkpoint_that_does_not_fit_leaves_the_model_as_it_was(checkpoint: Path) -> None:
    edit_weights(checkpoint, without="resampler.latents")
    other = tiny_flamingo(1)
    with pytest.raises(ModelError):
        load_trainable(other, checkpoint)
    assert equal(other, tiny_flamingo(1))


def test_truncated_weights_are_named(checkpoint: Path) -> None:
    path = checkpoint / "trainable.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"trainable\.safetensors cannot be read as safetensors"):
        load_trainable(tiny_flamingo(), checkpoint)


@pytest.mark.parametrize("text", ['{"format": ', "", "\xff\xfe"], ids=["broken off", "empty", "not text"])
def test_a_configuration_that_is_no_json_is_named(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json cannot be read as JSON"):
        read_config(checkpoint)


@pytest.mark.parametrize("found", [None, "videoflamingo-99"])
def test_another_format_is_refused(checkpoint: Path, found: str | None) -> None:
    edit_config(checkpoint, format=found)
    with pytest.raises(ModelError, match=rf"config\.json: format is {found!r}, this version reads 'videoflamingo-1'"):
        read_config(checkpoint)


def test_a_configuration_that_is_a_list_is_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(checkpoint)


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"colour": "red"}, "colour"), ({"vision": {"towers": "x"}}, "towers"), ({"resampler": 3}, "mapping")],
)
def test_an_unknown_or_broken_key_is_named(checkpoint: Path, changes: dict[str, Any], key: str) -> None:
    edit_config(checkpoint, **changes)
    with pytest.raises(ModelError, match=rf"config\.json does not describe a Flamingo: .*{key}"):
        read_config(checkpoint)


def test_a_missing_part_is_named(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    stored = json.loads(path.read_text())
    del stored["vision"]
    path.write_text(json.dumps(stored))
    with pytest.raises(ModelError, match=r"config\.json does not describe a Flamingo: 'vision'"):
        read_config(checkpoint)


def test_an_unknown_name_is_refused_with_what_is_missing_where(tmp_path: Path) -> None:
    name = str(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"is neither a bundled model .* has no config\.json and no trainable\.saf"):
        load_checkpoint(name)


def test_a_folder_without_weights_is_refused(checkpoint: Path) -> None:
    (checkpoint / "trainable.safetensors").unlink()
    with pytest.raises(ModelError, match=r"checkpoint has no trainable\.safetensors$"):
        load_trainable(tiny_flamingo(), checkpoint)


def tower_of(model: Flamingo) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith("vision.backbone.")}


def test_a_tower_that_was_trained_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    trained = tiny_flamingo(own_tower=True)
    with torch.no_grad():
        for parameter in trained.vision.backbone.parameters():
            parameter.add_(0.25)
    save_checkpoint(trained, tmp_path, torch.float32)
    other = tiny_flamingo(1, own_tower=True)
    load_trainable(other, tmp_path)
    assert all(torch.equal(tower_of(other)[name], value) for name, value in tower_of(trained).items())


def test_training_of_the_tower_may_start_from_a_checkpoint_that_left_it_frozen(checkpoint: Path) -> None:
    other = tiny_flamingo(1, own_tower=True)
    with pytest.raises(ModelError, match=r"missing: vision\.backbone"):
        load_trainable(other, checkpoint)
    before = tower_of(other)
    load_trainable(other, checkpoint, as_start=True)
    assert torch.equal(other.resampler.latents, tiny_flamingo(0).resampler.latents)
    assert all(torch.equal(tower_of(other)[name], value) for name, value in before.items())


def test_training_with_pooled_tokens_may_start_from_a_checkpoint_without(checkpoint: Path) -> None:
    other = tiny_flamingo(1, resampler=replace(TINY_CONFIG.resampler, pooled_side=1))
    with pytest.raises(ModelError, match=r"missing: resampler\.pooled"):
        load_trainable(other, checkpoint)
    before = {name: value.clone() for name, value in other.resampler.pooled.state_dict().items()}
    load_trainable(other, checkpoint, as_start=True)
    assert torch.equal(other.resampler.latents, tiny_flamingo(0).resampler.latents)
    assert all(torch.equal(value, before[name]) for name, value in other.resampler.pooled.state_dict().items())


def test_training_with_times_of_words_may_start_from_a_checkpoint_without(checkpoint: Path) -> None:
    other = tiny_flamingo(1, cross_attention=replace(TINY_CONFIG.cross_attention, word_times=True))
    with pytest.raises(ModelError, match=r"missing: blocks\.0\.word_times"):
        load_trainable(other, checkpoint)
    before = other.blocks[0].word_times.clone()
    load_trainable(other, checkpoint, as_start=True)
    assert torch.equal(other.resampler.latents, tiny_flamingo(0).resampler.latents)
    assert torch.equal(other.blocks[0].word_times, before)


def test_position_embeddings_are_resampled_for_larger_frames_where_training_starts(tmp_path: Path) -> None:
    positions = replace(TINY_CONFIG.resampler, position_embeddings=True)
    small = tiny_flamingo(resampler=positions)
    with torch.no_grad():  # rising from left to right, in every channel
        small.resampler.position.copy_(torch.tensor([0.0, 1.0] * 2)[:, None].expand(4, -1))
    save_checkpoint(small, tmp_path, torch.float32)
    large = tiny_flamingo(1, resampler=positions, vision=replace(TINY_CONFIG.vision, image_size=128))
    with pytest.raises(ModelError, match=r"misshaped: resampler\.position"):
        load_trainable(large, tmp_path)
    load_trainable(large, tmp_path, as_start=True)
    columns = large.resampler.position[:, 0].view(4, 4)
    assert torch.equal(columns, columns[:1].expand(4, -1))
    assert (columns[0].diff() > 0).all()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_an_error_of_the_disk_and_leaves_the_checkpoint_before(checkpoint: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(tiny_flamingo(1), checkpoint, torch.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "trainable.safetensors"]
    other = tiny_flamingo(1)
    load_trainable(other, checkpoint)
    assert equal(other, tiny_flamingo(0))
