"""Each dataset goes from files of its official format through fit, validate and test, by its own recipe.

The recipes are as they come; only the model is a tiny random one, batches are small, and two steps are taken.
"""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.datamodules.conftest import Write, picture_bytes, video_bytes, write_video
from tests.datamodules.test_interleaved import DOORS
from tests.datamodules.test_msrvtt import content
from tests.datamodules.test_nextqa import CHOICE_HEADER, CHOICES, WORDS, WORDS_HEADER
from tests.datamodules.test_webdataset import sample, shard_bytes
from tests.tiny import TINY_CONFIG, tiny_language_model, tiny_tokenizer
from videoflamingo import cli
from videoflamingo.models.checkpoint import load_checkpoint

__all__ = ["picture_bytes", "video_bytes", "write_video"]  # fixtures
ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = 2


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is put over a recipe: a tiny random model, on this machine's CPU, for two steps."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_language_model(len(tiny_tokenizer())).save_pretrained(folder / "language")
    tiny_tokenizer().save_pretrained(folder / "language")
    vision, resampler, blocks = TINY_CONFIG.vision, TINY_CONFIG.resampler, TINY_CONFIG.cross_attention
    small = ("depth", "width", "num_heads", "dim_head", "num_latents", "num_frames")
    over = {
        "model": {
            "config": {
                "language_model": str(folder / "language"),
                "vision": {"tower": vision.tower, "image_size": vision.image_size},
                "resampler": {name: getattr(resampler, name) for name in small} | {"pooled_side": 2},
                "cross_attention": {"first": blocks.first, "every": blocks.every, "num_heads": 2, "dim_head": 8},
            },
            "init_from": None,
        },
        "data": {"num_workers": 0},
        "trainer": {"accelerator": "cpu", "precision": "32-true", "max_steps": NUM_STEPS},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(over))
    return path


def write_own(write_video: Write, picture: bytes, video: bytes) -> None:
    write_video(Path("grey.mp4"))
    entries = [
        {"video": "grey.mp4", "captions": ["it is grey", "grey"], "question": "what?", "answer": "grey", "split": split}
        for split in ("train", "val", "test")
    ]
    Path("train.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def write_msrvtt(write_video: Write, picture: bytes, video: bytes) -> None:
    folder = Path("data/msrvtt")
    for name in ("TrainValVideo/video0.mp4", "TrainValVideo/video6513.mp4", "TestVideo/video7010.mp4"):
        write_video(folder / name)
    (folder / "train_val_videodatainfo.json").write_text(json.dumps(content("video0", "video6513")))
    (folder / "test_videodatainfo.json").write_text(json.dumps(content("video7010", "video7020")))


def write_msrvtt_qa(write_video: Write, picture: bytes, video: bytes) -> None:
    write_msrvtt(write_video, picture, video)
    folder = Path("data/msrvtt_qa")
    folder.mkdir()
    for split, number in (("train", 0), ("val", 6513), ("test", 7010)):
        asked = {"question": "what is shown?", "answer": "car", "category_id": 1, "id": 1, "video_id": number}
        (folder / f"{split}_qa.json").write_text(json.dumps([asked]))


def write_nextqa(write_video: Write, picture: bytes, video: bytes) -> None:
    for name in ("1164/4010.mp4", "0016/4882.mp4"):
        write_video(Path("data/nextqa/NExTVideo") / name)
    for folder, header, rows in (("nextqa", CHOICE_HEADER, CHOICES), ("nextqa_words", WORDS_HEADER, WORDS)):
        placed = {"4010": "1164/4010", "4882": "0016/4882", "5000": "0094/5000"}
        Path("data", folder).mkdir(exist_ok=True)
        Path("data", folder, "map_vid_vidorID.json").write_text(json.dumps(placed))
        for split in ("train", "val", "test"):
            Path("data", folder, f"{split}.csv").write_text("\n".join([header, *rows]) + "\n")


def write_shards(write_video: Write, picture: bytes, video: bytes) -> None:
    for folder, media, extension in (
        ("clips", video, "mp4"),
        ("clips_held_out", video, "mp4"),
        ("pictures", picture, "png"),
    ):
        Path("data", folder).mkdir(parents=True)
        samples = (sample(str(number), f"number {number}", media, extension) for number in range(2))
        Path("data", folder, "00000.tar").write_bytes(shard_bytes(*samples))


def write_pages(write_video: Write, picture: bytes, video: bytes) -> None:
    Path("data/mmc4/pictures").mkdir(parents=True)
    Path("data/mmc4_held_out").mkdir()
    for one in DOORS["image_info"]:  # type: ignore[attr-defined]
        Path("data/mmc4/pictures", one["image_name"]).write_bytes(picture)
    for folder in ("mmc4", "mmc4_held_out"):
        Path("data", folder, "shard.jsonl").write_text(f"{json.dumps(DOORS)}\n")


def metrics(run: Path) -> dict[str, str]:
    """What the newest log of a run holds, the last value of each."""
    logs = sorted(run.glob("lightning_logs/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime_ns)
    with logs[-1].open(newline="") as file:
        return {name: value for row in csv.DictReader(file) for name, value in row.items() if value}


@pytest.mark.parametrize(
    ("recipe", "members", "write"),
    [
        ("own_data", ["own"], write_own),
        ("msrvtt_captions", ["msrvtt"], write_msrvtt),
        ("msrvtt_qa", ["msrvtt_qa"], write_msrvtt_qa),
        ("nextqa_choice", ["nextqa"], write_nextqa),
        ("nextqa_words", ["nextqa"], write_nextqa),
        ("webdataset", ["clips", "pictures"], write_shards),
        ("interleaved", ["pages"], write_pages),
    ],
)
def test_a_dataset_trains_validates_and_is_tested_by_its_recipe(
    recipe: str,
    members: list[str],
    write: Callable[[Write, bytes, bytes], None],
    tiny_recipe: Path,
    write_video: Write,
    picture_bytes: bytes,
    video_bytes: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(write_video, picture_bytes, video_bytes)
    composed = ["--config", str(ROOT / f"recipes/{recipe}.yaml"), "--config", str(tiny_recipe)]
    composed += [f"--data.members.{name}.batch_size=4" for name in members]
    run = Path("runs", recipe)

    assert cli.main(["fit", *composed, "--trainer.log_every_n_steps=1"]) == 0
    assert (run / f"step-{NUM_STEPS:08d}.ckpt").is_file()
    assert all(math.isfinite(float(metrics(run)[f"loss/{name}"])) for name in members)

    assert cli.main(["validate", *composed, "--ckpt_path=auto"]) == 0
    assert math.isfinite(float(metrics(run)[f"val_loss/{members[0]}"]))

    assert cli.main(["test", *composed, "--ckpt_path=auto"]) == 0
    assert math.isfinite(float(metrics(run)[f"test_loss/{members[0]}"]))
    assert 0 <= float(metrics(run)[f"test_exact/{members[0]}"]) <= 1
    assert not [message for message in caplog.messages if "left out:" in message or "left out of the" in message]


def write_paper(write_video: Write, picture: bytes, video: bytes) -> None:
    """Stand-ins for the stand-ins: a shard of pages, one of clips and two of pictures."""
    write_pages(write_video, picture, video)
    write_shards(write_video, picture, video)
    for name, place in (("mmc4", "m3w_like"), ("pictures", "align_like"), ("clips", "vtp_like")):
        Path("data", name).rename(Path("data", place))
    shutil.copytree("data/align_like", "data/ltip_like")


@pytest.mark.parametrize("layout", ["3b", "9b", "80b"])
def test_the_papers_mixture_takes_two_steps_of_each_layout_made_small(
    layout: str,
    tiny_recipe: Path,
    write_video: Write,
    picture_bytes: bytes,
    video_bytes: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_paper(write_video, picture_bytes, video_bytes)
    paths = [ROOT / "recipes/paper/mixture.yaml", ROOT / f"recipes/paper/{layout}.yaml", tiny_recipe]
    composed = [word for path in paths for word in ("--config", str(path))]
    members = ("pages", "noisy_pictures", "described_pictures", "clips")
    composed += [f"--data.members.{name}.batch_size=3" for name in members]
    alone = ["--trainer.strategy=auto", "--trainer.devices=1", "--trainer.log_every_n_steps=1"]
    assert cli.main(["fit", *composed, *alone]) == 0
    logged = metrics(Path("runs/paper"))
    losses = {name: float(logged[f"loss/{name}"]) for name in members}
    weights = dict(zip(members, (1.0, 0.2, 0.2, 0.03), strict=True))
    assert float(logged["loss"]) == pytest.approx(sum(weights[name] * losses[name] for name in members), rel=1e-4)


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which Lightning runs again for each further process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "videoflamingo", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("overlay", ["ddp", "fsdp2"])
def test_two_processes_train_save_go_on_and_validate_by_the_overlay(
    overlay: str,
    tiny_recipe: Path,
    write_video: Write,
    picture_bytes: bytes,
    video_bytes: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_own(write_video, picture_bytes, video_bytes)
    paths = [ROOT / "recipes/own_data.yaml", ROOT / f"recipes/overlays/{overlay}.yaml", tiny_recipe]
    composed = [word for path in paths for word in ("--config", str(path))]
    both = ["--trainer.devices=2", "--data.members.own.batch_size=3", "--ckpt_path=auto"]
    for steps in (2, 4):
        done = run_cli("fit", *composed, *both, f"--trainer.max_steps={steps}")
        assert done.returncode == 0, done.stderr[-3000:]
        assert Path(f"runs/own_data/step-{steps:08d}.ckpt").is_file()
    assert load_checkpoint("runs/own_data/trainable").config.resampler.num_latents == TINY_CONFIG.resampler.num_latents
    done = run_cli("validate", *composed, *both)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "val_loss/own" in done.stdout


def test_the_tower_is_fine_tuned_at_a_larger_size_from_a_bridge_and_the_result_can_be_loaded(
    tiny_recipe: Path,
    write_video: Write,
    picture_bytes: bytes,
    video_bytes: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_own(write_video, picture_bytes, video_bytes)
    own, tower = ROOT / "recipes/own_data.yaml", ROOT / "recipes/overlays/finetune_tower.yaml"
    composed = ["--config", str(own), "--config", str(tiny_recipe), "--data.members.own.batch_size=2"]
    assert cli.main(["fit", *composed]) == 0
    larger = [
        "--config",
        str(tower),
        "--model.config.vision.image_size=96",
        "--model.init_from=runs/own_data/trainable",
    ]
    larger += ["--trainer.callbacks.init_args.folder=runs/larger", "--trainer.default_root_dir=runs/larger"]
    assert cli.main(["fit", *composed, *larger]) == 0
    loaded = load_checkpoint("runs/larger/trainable")
    assert loaded.config.own_tower
    before = load_checkpoint("runs/own_data/trainable").vision.backbone.state_dict()
    after = loaded.vision.backbone.state_dict()
    assert any(not torch.equal(before[name], value) for name, value in after.items())


def test_cached_features_are_used_by_the_overlay(
    tiny_recipe: Path,
    write_video: Write,
    picture_bytes: bytes,
    video_bytes: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_own(write_video, picture_bytes, video_bytes)
    paths = [ROOT / "recipes/own_data.yaml", tiny_recipe, ROOT / "recipes/overlays/cached_features.yaml"]
    composed = [word for path in paths for word in ("--config", str(path))]
    composed += ["--data.members.own.batch_size=2"]
    assert cli.main(["fit", *composed]) == 2
    assert "there is no such feature cache; make it with `videoflamingo cache-features" in capsys.readouterr().err
    assert cli.main(["cache-features", *composed, "--num-workers=1"]) == 0
    assert cli.main(["fit", *composed]) == 0
