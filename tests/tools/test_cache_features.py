"""`videoflamingo cache-features` reads a recipe, makes what is missing, and says what became of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from videoflamingo.tools.cache_features import Display

from tests.tiny import TINY_CONFIG
from tests.training.videos import write_video
from videoflamingo import cli
from videoflamingo.training.cli import datamodule_of

Captured = pytest.CaptureFixture[str]


def write_list(path: Path, *videos: Path) -> Path:
    path.write_text("".join(json.dumps({"video": str(video), "caption": "numbers"}) + "\n" for video in videos))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two videos to train on and one to validate with; features in the folder `cache`."""
    videos = [write_video(tmp_path / f"{number}.mp4", first=20 * number) for number in range(3)]
    texts = {
        "class_path": "datamodules.own.OwnTexts",
        "init_args": {
            "path": str(write_list(tmp_path / "train.jsonl", *videos[:2])),
            "validate": str(write_list(tmp_path / "validate.jsonl", videos[2])),
            "sampling": {"num_frames": 4},
        },
    }
    settings = {
        "model": {
            "config": {
                "language_model": "(none)",
                "vision": {"tower": TINY_CONFIG.vision.tower, "image_size": 64, "chunk_size": 4},
            }
        },
        "data": {"members": {"own": {"texts": texts, "batch_size": 2}}, "features": str(tmp_path / "cache")},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run(recipe: Path, *options: str) -> int:
    """The command, with what makes it quick in a test."""
    return cli.main(["cache-features", "--config", str(recipe), "--device", "cpu", "--num-workers", "1", *options])


def report_of(capsys: Captured) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_what_the_recipe_asks_for_is_found_in_its_cache_afterwards(
    recipe: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run(recipe) == 0
    out, log = capsys.readouterr()
    assert out.startswith("3 media: 3 cached now (0.0 MB), 0 already there, 0 failed, in ")
    assert out.endswith(f": {tmp_path / 'cache'}\n") and out.count("\n") == 1
    assert f"videoflamingo cache-features: 3 media for {tmp_path / 'cache'}" in log
    mixture = datamodule_of(["--config", str(recipe)])
    assert {features.shape for features in mixture.sample_media()} == {(4, 4, 256)}


def test_json_says_the_same_for_programs(recipe: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run(recipe, "--json") == 0
    first = report_of(capsys)
    assert first.pop("seconds") > 0
    assert first == {
        "media": 3,
        "cached_now": 3,
        "already_there": 0,
        "failed": [],
        "damaged_shards": [],
        "bytes": 3 * 4 * 4 * 256 * 2,
        "folder": str(tmp_path / "cache"),
    }
    assert run(recipe, "--json") == 0
    again = report_of(capsys)
    assert (again["cached_now"], again["already_there"], again["bytes"]) == (0, 3, 0)


def test_only_the_splits_asked_for_are_made(recipe: Path, capsys: Captured) -> None:
    assert run(recipe, "--json", "--splits", "validate") == 0
    assert report_of(capsys)["media"] == 1


def test_recipes_are_put_together_and_dotted_options_override_them(
    recipe: Path, tmp_path: Path, capsys: Captured
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"data": {"features": str(tmp_path / "other")}}))
    assert run(recipe, "--config", str(overlay), "--json", "--model.config.vision.image_size", "32") == 0
    report = report_of(capsys)
    assert report["folder"] == str(tmp_path / "other")
    assert report["bytes"] == 3 * 4 * 1 * 256 * 2  # one patch of a frame


def test_an_unreadable_video_is_named_and_the_exit_status_says_so(
    recipe: Path, tmp_path: Path, capsys: Captured
) -> None:
    broken = tmp_path / "0.mp4"
    good = broken.read_bytes()
    broken.write_text("not found\n" * 100)
    assert run(recipe) == 3
    out, log = capsys.readouterr()
    assert out.startswith("3 media: 2 cached now (0.0 MB), 0 already there, 1 failed")
    assert f"videoflamingo cache-features: {broken}: is a text file, not a video" in log
    broken.write_bytes(good)
    assert run(recipe, "--json", "--retry-failed") == 0
    assert report_of(capsys)["cached_now"] == 1


def test_verify_replaces_what_is_damaged(recipe: Path, tmp_path: Path, capsys: Captured) -> None:
    run(recipe)
    (shard,) = (tmp_path / "cache").glob("*/*.npy")
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    capsys.readouterr()
    assert run(recipe, "--json") == 0
    assert report_of(capsys)["damaged_shards"] == []
    assert run(recipe, "--verify") == 0
    out, log = capsys.readouterr()
    assert out.startswith("3 media: 3 cached now (0.0 MB), 0 already there, 0 failed, 1 damaged shard replaced")
    assert f"{shard}: has another checksum than when it was written; given up" in log


def test_a_recipe_without_a_folder_for_features_is_refused(recipe: Path, capsys: Captured) -> None:
    assert run(recipe, "--data.features", "null") == 2
    assert "data.features is null" in capsys.readouterr().err


def test_random_sampling_is_refused(recipe: Path, capsys: Captured) -> None:
    settings = yaml.safe_load(recipe.read_text())
    settings["data"]["members"]["own"]["texts"]["init_args"]["sampling"]["method"] = "random"
    recipe.write_text(yaml.safe_dump(settings))
    assert run(recipe) == 2
    assert "cannot be cached; use sampling='uniform'" in capsys.readouterr().err


def test_a_split_without_media_is_refused(recipe: Path, capsys: Captured) -> None:
    assert run(recipe, "--splits", "test") == 2
    assert "there are no media in test; name other --splits" in capsys.readouterr().err


def test_a_wrong_option_is_refused(recipe: Path, capsys: Captured) -> None:
    assert run(recipe, "--nonsense", "1") == 2
    assert "nonsense" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_done(
    recipe: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Display, report: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Display, "show", interrupted)  # at the first medium
        assert run(recipe) == 130
    out, log = capsys.readouterr()
    assert out == ""
    assert f"interrupted; what was done is kept in {tmp_path / 'cache'}, the same command continues" in log
    assert run(recipe, "--json") == 0
    assert report_of(capsys)["cached_now"] == 2
