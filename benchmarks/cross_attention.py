"""What cross-attention costs when a text has many media: by runs, and with the dense mask that others use.

    python benchmarks/cross_attention.py [--runs 9] [--kernels] [--device auto] [--json] [--no-record]

One text of 1,056 tokens attends to 64 latents a medium, 8 heads of 64, in float32 (bfloat16 too on CUDA), with 1, 8
and 33 media. Each medium has the same share of the text (`even`), a share of half to one and a half times that, after
a first token before any medium (`uneven`, as shots with longer and shorter answers), or any from 2 tokens on
(`ragged`). `runs` is what videoflamingo does, `dense` attends to all media under a mask, as OpenFlamingo does;
`attention` is that operation alone, `block` a whole gated block of a language model 576 wide. Keys and values are
given: they are computed once for each medium, whatever the text. Medians of N runs in milliseconds, media and ways in
turn; the ratio is to `runs` with one medium. With gradients, those of 33 media's keys and values (17 MB) are written,
too. The run is appended to `benchmarks/results/cross_attention.json`.

`--kernels` times the kernels behind the seam against each other instead, over types and sizes, forward and with
gradients: what `videoflamingo.models.attention.choose_backend` goes by.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _record import append

from videoflamingo.models.attention import attend, choose_backend, cross_attend, media_runs
from videoflamingo.models.cross_attention import CrossAttentionConfig, GatedCrossAttentionBlock

TEXT, LATENTS, HEADS, DIM_HEAD = 1056, 64, 8, 64
MEDIA = (1, 8, 33)
# rows, query tokens, keys, heads, head width: prompts, long texts, resamplers.
KERNEL_SIZES = [
    (8, 1, 64, 8, 64),
    (8, 28, 64, 8, 64),
    (33, 32, 64, 8, 64),
    (2, 256, 64, 8, 64),
    (1, 1056, 64, 8, 64),
    (4, 1056, 64, 8, 64),
    (1, 64, 864, 16, 96),
    (8, 64, 864, 16, 96),
    (16, 16, 340, 8, 48),
]


def media_index(num_media: int, shares: str) -> list[int]:
    """The medium of each token."""
    if shares == "even":
        return [1 + token * num_media // TEXT for token in range(TEXT)]
    rng = random.Random(0)
    if shares == "uneven":
        share = TEXT / num_media
        cuts = [round(medium * share + rng.uniform(-share / 4, share / 4)) for medium in range(1, num_media)]
    else:
        cuts = sorted(rng.sample(range(3, TEXT, 2), num_media - 1))
    return [0, *[1 + sum(token >= cut for cut in cuts) for token in range(1, TEXT)]]


def dense(query: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """Attention to all media under a mask; rows of text before any medium are let through and cleared afterwards."""
    flat = [tensor.flatten(1, 2).transpose(1, 2) for tensor in (keys, values)]  # [B, H, M*N, d]
    seen = allowed.any(-1, keepdim=True)  # [B, L, 1]
    attended = F.scaled_dot_product_attention(query.transpose(1, 2), *flat, attn_mask=(allowed | ~seen)[:, None])
    return (attended * seen[:, None]).transpose(1, 2)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def forward_and_backward(attention: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], None]:
    weights = torch.randn(inputs[0].shape, device=inputs[0].device, dtype=inputs[0].dtype)
    return lambda: attention(*inputs).backward(weights)


def compare_media(device: torch.device, dtype: torch.dtype, runs: int) -> list[dict[str, Any]]:
    cases: list[tuple[dict[str, Any], Callable[[], Any]]] = []
    block = GatedCrossAttentionBlock(576, 576, CrossAttentionConfig(num_heads=HEADS, dim_head=DIM_HEAD, gate_init=0.3))
    block.to(device, dtype)
    for shares in ("even", "uneven", "ragged"):
        for num_media in MEDIA:
            index = media_index(num_media, shares)
            shapes = [(1, TEXT, HEADS, DIM_HEAD), *[(1, num_media, LATENTS, HEADS, DIM_HEAD)] * 2]
            inputs = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]
            trained = [tensor.clone().requires_grad_() for tensor in inputs]
            cut = media_runs([index], num_media, device)
            latent_media = torch.arange(1, num_media + 1).repeat_interleave(LATENTS)
            allowed = (torch.tensor(index)[:, None] == latent_media)[None].to(device)  # [1, L, M*N]

            def by_runs(query: Tensor, keys: Tensor, values: Tensor, cut: Any = cut) -> Tensor:
                return cross_attend(query, keys, values, cut)

            def by_mask(query: Tensor, keys: Tensor, values: Tensor, allowed: Tensor = allowed) -> Tensor:
                return dense(query, keys, values, allowed)

            with torch.no_grad():
                torch.testing.assert_close(by_runs(*inputs), by_mask(*inputs), rtol=2e-2, atol=2e-2)
            for way, attention in (("runs", by_runs), ("dense", by_mask)):
                about = {"shares": shares, "media": num_media, "way": way}

                def forward(attention: Any = attention, inputs: Any = inputs) -> None:
                    with torch.no_grad():
                        attention(*inputs)

                cases.append(({**about, "what": "attention"}, forward))
                cases.append(({**about, "what": "attention, gradients"}, forward_and_backward(attention, trained)))

            text = torch.randn(1, TEXT, 576, device=device, dtype=dtype, requires_grad=True)

            def whole(text: Tensor, keys: Tensor, values: Tensor, cut: Any = cut) -> Tensor:
                return block(text, (keys, values), cut)

            about = {"shares": shares, "media": num_media, "way": "runs"}
            cases.append(({**about, "what": "block, gradients"}, forward_and_backward(whole, [text, *trained[1:]])))
    seconds: list[list[float]] = [[] for _ in cases]
    for run in range(runs + 2):
        for place, (_, work) in enumerate(cases):
            took = timed(work, device)
            if run >= 2:
                seconds[place].append(took)
    rows = [
        {**about, "dtype": str(dtype).removeprefix("torch."), "milliseconds": round(1000 * statistics.median(own), 3)}
        for (about, _), own in zip(cases, seconds, strict=True)
    ]
    for row in rows:
        base = next(
            one
            for one in rows
            if (one["shares"], one["what"], one["media"], one["way"]) == (row["shares"], row["what"], 1, "runs")
        )
        row["ratio"] = round(row["milliseconds"] / base["milliseconds"], 2)
    return rows


def compare_kernels(device: torch.device, dtype: torch.dtype, runs: int) -> list[dict[str, Any]]:
    rows = []
    kernels = ["math", "sdpa", *(["xformers"] if device.type == "cuda" else [])]
    for size in KERNEL_SIZES:
        num_rows, length, num_keys, heads, width = size
        shapes = [(num_rows, length, heads, width), *[(num_rows, num_keys, heads, width)] * 2]
        inputs = [torch.randn(shape, device=device, dtype=dtype) for shape in shapes]
        trained = [tensor.clone().requires_grad_() for tensor in inputs]
        for what in ("forward", "with gradients"):
            seconds: dict[str, list[float]] = {kernel: [] for kernel in kernels}
            for run in range(runs + 2):
                for kernel in kernels:
                    if what == "forward":
                        with torch.no_grad():
                            took = timed(lambda kernel=kernel, own=inputs: attend(*own, kernel), device)
                    else:
                        step = forward_and_backward(lambda *own, kernel=kernel: attend(*own, kernel), trained)
                        took = timed(step, device)
                    if run >= 2:
                        seconds[kernel].append(took)
            medians = {kernel: round(1000 * statistics.median(own), 3) for kernel, own in seconds.items()}
            with torch.set_grad_enabled(what != "forward"):
                chosen = choose_backend("auto", trained[0], length)
            shown = {"size": size, "dtype": str(dtype).removeprefix("torch."), "what": what}
            rows.append({**shown, "milliseconds": medians, "auto": chosen})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--kernels", action="store_true", help="compare the kernels behind the seam")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--no-record", action="store_true", help="do not append to benchmarks/results")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs {options.runs} must be at least 1")
    from videoflamingo.pipeline import choose_device

    device = choose_device(options.device)
    torch.manual_seed(0)
    types = [torch.float32]
    if device.type == "cuda" or options.kernels:
        types.append(torch.bfloat16)
    compare = compare_kernels if options.kernels else compare_media
    rows = [row for dtype in types for row in compare(device, dtype, options.runs)]
    if not options.json:
        for row in rows:
            if options.kernels:
                times = "  ".join(f"{kernel} {value:8.2f}" for kernel, value in row["milliseconds"].items())
                print(f"{row['dtype']:<9} {tuple(row['size'])!s:<22} {row['what']:<15} {times}  auto: {row['auto']}")
            else:
                print(
                    f"{row['dtype']:<9} {row['shares']:<7} {row['media']:>2} media  {row['way']:<6} {row['what']:<21}"
                    f"{row['milliseconds']:9.2f} ms  x {row['ratio']:.2f}"
                )
    if not options.no_record:
        name = "attention_kernels" if options.kernels else "cross_attention"
        append(name, {"runs": options.runs, "device": device.type, "text": TEXT, "rows": rows})
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
