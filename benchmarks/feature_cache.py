"""A training step from files against the same step from the feature cache: time, losses, and the wait for data.

    python benchmarks/feature_cache.py [--rounds 3] [--steps 6] [--settings readout text text-vit] [--no-record]

`readout` and `text` are the recipes of the bundled model (warm-up, and training through the language model) with its
own tower, which is small: 0.5 billion multiplications a frame. `text-vit` is the latter with a ViT-B/16 at 224 pixels
(18 billion; untrained, which costs the same), the least that people usually train with; `text-vit-l` has the ViT-L/14
that OpenFlamingo's models have (81 billion), and is left out unless it is named, because it takes half an hour.

The recipes are as they are but for what is told here: questions about videos only, 48 or 24 a step, so that all
steps are alike; no mirrored texts, because mirrored features are not quite those of mirrored frames; no validation, no
checkpoints; weights begin at random. `files` decodes in two processes while this one encodes and trains; `cache` reads
what `videoflamingo cache-features` made before, which the system still has in memory.

Every round starts a process for each side, in turn. A step's time is that between the ends of two steps, so it holds
all waiting; the first two steps of a process do not count. Numbers are medians over all steps of all rounds; the wait
is the mean share. The run is appended to `benchmarks/results/feature_cache.json`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from videoflamingo.torchvision_operators import declare_missing_operators  # noqa: E402

declare_missing_operators()
import lightning as L  # noqa: E402  (its import needs the declaration above)

# name: recipe, and the tower in place of the recipe's
SETTINGS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "readout": ("tiny_world_warmup", None),
    "text": ("tiny_world", None),
    "text-vit": ("tiny_world", {"tower": "random:vit_base_patch16_clip_224", "image_size": 224}),
    "text-vit-l": ("tiny_world", {"tower": "random:vit_large_patch14_clip_224", "image_size": 224}),
}
BATCH_SIZES = {"tiny_world_warmup": 48, "tiny_world": 24}  # videos of a step
USUAL = ["readout", "text", "text-vit"]
WARM_UP_STEPS = 2
ASKED = {"speedup": 8.0, "data_wait": 0.05, "loss_difference": 0.0}  # at least, less than, at most


class Steps(L.Callback):
    """Notes when each step ended, its loss and its share of waiting."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.waits: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.ends.append(time.perf_counter())
        self.losses.append(float(trainer.callback_metrics["loss"]))
        self.waits.append(float(trainer.callback_metrics["data_wait"]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seconds = [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)][WARM_UP_STEPS - 1 :]
        print(json.dumps({"seconds": seconds, "losses": self.losses, "waits": self.waits[WARM_UP_STEPS:]}))


def recipe_for(name: str, folder: Path, features: Path | None, num_steps: int) -> dict[str, Any]:
    """The recipe with the changes that the top of this file tells."""
    import yaml

    source, tower = SETTINGS[name]
    recipe = yaml.safe_load((ROOT / "recipes" / f"{source}.yaml").read_text("utf-8"))
    recipe["model"]["init_from"] = None
    recipe["model"]["config"]["vision"] = tower or recipe["model"]["config"]["vision"]
    batch_size = BATCH_SIZES[source]
    only_videos = {"num_videos": num_steps * batch_size, "num_beside": 0, "num_pictures": 0, "picture_share": 0.0}
    options = {"folder": str(folder / "world"), "mirrored_share": 0.0, "validation_share": 0.0, **only_videos}
    texts = {"class_path": "datamodules.world.texts.WorldTexts", "init_args": options}
    recipe["data"]["members"] = {"world": {"texts": texts, "batch_size": batch_size}}
    recipe["data"]["features"] = None if features is None else str(features)
    recipe["trainer"] = {
        "accelerator": "cpu",
        "precision": recipe["trainer"]["precision"],
        "max_steps": num_steps,
        "limit_val_batches": 0,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "logger": False,
        "log_every_n_steps": 1,
        "default_root_dir": str(folder),
        "callbacks": [{"class_path": "__main__.Steps"}],
    }
    return recipe


def run(words: list[str]) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"feature_cache: {' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def measure(name: str, folder: Path, rounds: int, num_steps: int) -> dict[str, Any]:
    """Both sides of one setting."""
    import yaml

    paths = {}
    for side, features in (("files", None), ("cache", folder / "features")):
        recipe = recipe_for(name, folder, features, num_steps)
        paths[side] = folder / f"{name}_{side}.yaml"
        paths[side].write_text(yaml.safe_dump(recipe), "utf-8")
    started = time.perf_counter()
    run([__file__, "--cache", str(paths["cache"])])
    making = time.perf_counter() - started
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in paths}
    for _ in range(rounds):
        for side, path in paths.items():
            found[side].append(json.loads(run([__file__, "--fit", str(path)]).splitlines()[-1]))
    seconds = {side: statistics.median(one for each in runs for one in each["seconds"]) for side, runs in found.items()}
    losses = {side: runs[0]["losses"] for side, runs in found.items()}
    differences = [
        abs(one - other)
        for files, cache in zip(found["files"], found["cache"], strict=True)
        for one, other in zip(files["losses"], cache["losses"], strict=True)
    ]
    return {
        "setting": name,
        "tower": recipe["model"]["config"]["vision"]["tower"],
        "videos_a_step": recipe["data"]["members"]["world"]["batch_size"],
        "seconds": {side: round(value, 3) for side, value in seconds.items()},
        "speedup": round(seconds["files"] / seconds["cache"], 2),
        "data_wait": {
            side: round(statistics.mean(one for each in runs for one in each["waits"]), 4)
            for side, runs in found.items()
        },
        "losses": {side: [round(loss, 6) for loss in values] for side, values in losses.items()},
        "loss_difference": max(differences),
        "seconds_to_make_cache": round(making, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="that count, in each process (default: %(default)s)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=USUAL)
    parser.add_argument("--folder", default=str(ROOT / "runs" / "feature_cache_benchmark"), help="videos and features")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit or options.cache:
        from videoflamingo.cli import main as videoflamingo

        command = ["fit", "--config", options.fit] if options.fit else ["cache-features", "--config", options.cache]
        return videoflamingo(command)
    if options.rounds < 1 or options.steps < 1:
        parser.error(f"--rounds {options.rounds} and --steps {options.steps} must be at least 1")
    folder = Path(options.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for name in options.settings:
        row = measure(name, folder, options.rounds, options.steps + WARM_UP_STEPS)
        results.append(row)
        if not options.json:
            print(
                f"{name:<8} {row['videos_a_step']} videos a step: files {row['seconds']['files']:.2f} s, "
                f"cache {row['seconds']['cache']:.2f} s, {row['speedup']:.1f} times faster; wait for data "
                f"{row['data_wait']['files']:.1%} and {row['data_wait']['cache']:.1%}; "
                f"losses differ by {row['loss_difference']:.2g} at most",
                flush=True,
            )
    if not options.no_record:
        from _record import append

        append("feature_cache", {"rounds": options.rounds, "steps": options.steps, "asked": ASKED, "results": results})
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
