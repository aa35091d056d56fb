"""A run to look at: 200 steps of a mixture of three datasets, with the page, plot and table that it leaves.

    python benchmarks/three_datasets.py [--steps 200] [--folder runs/three_datasets] [--keep]

The bundled model goes on training on the world (weight 1), on clips in MSR-VTT's official layout (0.5), and on picture
and caption pairs in a WebDataset shard (0.2). The clips and pictures are drawn here: shapes of one colour on another,
the clips' moving. Features are cached first. With `--keep` the plot, the table and the page are copied into
docs/mixture; frames of the world are left out there, because their drawings are OpenMoji's.
"""

import argparse
import io
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 210), "yellow": (235, 205, 40)}
GROUNDS = {"grey": (128, 128, 128), "white": (245, 245, 245), "black": (15, 15, 15)}
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SHAPES = ("disc", "square", "triangle")
SIZE, SECONDS, RATE = 128, 2, 12
NUM_CLIPS, NUM_PICTURES = 48, 60


def drawn(shape: str, colour: str, ground: str, x: float, y: float, radius: float = 0.2) -> np.ndarray:
    """One frame `[SIZE, SIZE, 3]`; places are shares of the side, and leave at one side to enter at the other."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    right, below = ((columns - x + 0.5) % 1) - 0.5, ((rows - y + 0.5) % 1) - 0.5
    inside = {
        "disc": right**2 + below**2 < radius**2,
        "square": np.maximum(abs(right), abs(below)) < 0.85 * radius,
        "triangle": (below < 0.8 * radius) & (below > 2 * abs(right) - 0.9 * radius),
    }[shape]
    return np.where(inside[..., None], COLOURS[colour], GROUNDS[ground]).astype(np.uint8)


def write_clip(path: Path, shape: str, colour: str, ground: str, motion: str, rng: random.Random) -> None:
    x, y = rng.random(), rng.random()
    across, along = MOTIONS[motion]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for index in range(SECONDS * RATE):
            moved = 0.45 * index / RATE
            picture = drawn(shape, colour, ground, x + across * moved, y + along * moved)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_msrvtt(folder: Path, rng: random.Random) -> None:
    """Clips of every motion in the layout of the official files."""
    (folder / "TrainValVideo").mkdir(parents=True)
    files: dict[str, tuple[list, list]] = {"train_val": ([], []), "test": ([], [])}
    every = list(itertools.product(SHAPES, COLOURS, GROUNDS, MOTIONS))
    for number, (shape, colour, ground, motion) in enumerate(rng.sample(every, NUM_CLIPS)):
        name, split = f"video{number}", {0: "validate", 4: "test"}.get(number % 8, "train")
        videos, sentences = files["test" if split == "test" else "train_val"]
        write_clip(folder / "TrainValVideo" / f"{name}.mp4", shape, colour, ground, motion, rng)
        videos.append({"video_id": name, "split": split, "category": 0, "start time": 0.0, "end time": 2.0,
                       "id": number, "url": "drawn here"})  # fmt: skip
        for caption in (f"a {colour} {shape} moves {motion}", f"something {colour} goes {motion}"):
            sentences.append({"video_id": name, "caption": caption, "sen_id": len(sentences)})
    for file, (videos, sentences) in files.items():
        content = {"info": {}, "videos": videos, "sentences": sentences}
        (folder / f"{file}_videodatainfo.json").write_text(json.dumps(content), "utf-8")


def write_shard(path: Path, numbers: range, rng: random.Random) -> None:
    """Pictures with captions, as img2dataset writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            shape, colour, ground = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(list(GROUNDS))
            picture = drawn(shape, colour, ground, rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
            caption = f"a {colour} {shape} on a {ground} ground"
            for extension, content in (("png", png(picture)), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def png(picture: np.ndarray) -> bytes:
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = *picture.shape[:2], "rgb24", Fraction(1)
    packets = [*encoder.encode(av.VideoFrame.from_ndarray(picture, "rgb24")), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def recipe_for(folder: Path, num_steps: int) -> dict[str, object]:
    """The debug recipe's model on the three datasets."""
    recipe = yaml.safe_load((ROOT / "recipes" / "debug.yaml").read_text("utf-8"))
    shown = {"folder": str(folder / "out")}
    recipe["model"] |= {"learning_rate": 3.0e-4, "warmup_steps": 20}
    recipe["data"] = {
        "members": {
            "world": {
                "texts": {
                    "class_path": "datamodules.world.texts.WorldTexts",
                    "init_args": {"folder": str(folder / "world"), "num_videos": 240, "num_pictures": 120},
                },
                "batch_size": 8,
            },
            "msrvtt": {
                "texts": {
                    "class_path": "datamodules.msrvtt.MsrvttCaptions",
                    "init_args": {"annotations": str(folder / "msrvtt"), "videos": str(folder / "msrvtt")},
                },
                "batch_size": 8,
                "weight": 0.5,
            },
            "pictures": {
                "texts": {
                    "class_path": "datamodules.webdataset.ShardTexts",
                    "init_args": {
                        "shards": str(folder / "pictures" / "train.tar"),
                        "validate": str(folder / "pictures" / "validate.tar"),
                        "caption_space_share": 0.5,
                    },
                },
                "batch_size": 8,
                "weight": 0.2,
            },
        },
        "features": str(folder / "features"),
        "steps_per_epoch": 50,
    }
    recipe["trainer"] = {
        "accelerator": "cpu",
        "max_steps": num_steps,
        "log_every_n_steps": 1,
        "default_root_dir": str(folder / "out"),
        "callbacks": [
            {"class_path": "videoflamingo.training.checkpoints.Checkpoints", "init_args": shown},
            {
                "class_path": "videoflamingo.training.predictions_page.PredictionsPage",
                "init_args": {**shown, "num_samples": 4},
            },
            {"class_path": "videoflamingo.training.loss_plot.LossPlot", "init_args": {**shown, "every_num_steps": 2}},
        ],
    }
    return recipe


def keep(out: Path) -> None:
    """Copy what the run shows into docs/mixture, the world's frames left out."""
    docs = ROOT / "docs" / "mixture"
    docs.mkdir(exist_ok=True)
    for name in ("losses.png", "losses.md"):
        shutil.copyfile(out / name, docs / name)
    page = (out / "predictions.html").read_text("utf-8").replace(f"{out.parent}/", "")
    parts = re.split(r"(?=<h2 )", page)
    number = next(number for number, part in enumerate(parts) if part.startswith("<h2 ") and ">world</h2>" in part)
    parts[number] = re.sub(r"<img [^>]*>", "<i>(a drawing of OpenMoji)</i>", parts[number])
    (docs / "predictions.html").write_text("".join(parts), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "three_datasets")
    parser.add_argument("--keep", action="store_true", help="copy what is shown into docs/mixture")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    rng = random.Random(0)
    write_msrvtt(folder / "msrvtt", rng)
    write_shard(folder / "pictures" / "train.tar", range(NUM_PICTURES), rng)
    write_shard(folder / "pictures" / "validate.tar", range(NUM_PICTURES, NUM_PICTURES + 8), rng)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_for(folder, arguments.steps), sort_keys=False), "utf-8")
    for command in ("cache-features", "fit"):
        subprocess.run([sys.executable, "-m", "videoflamingo", command, "--config", str(path)], check=True)
    if arguments.keep:
        keep(folder / "out")


if __name__ == "__main__":
    main()
