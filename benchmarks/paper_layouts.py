"""How many parameters the paper's 3B, 9B and 80B have when built as published, beside the numbers it prints.

    python benchmarks/paper_layouts.py [--json]

Exact arithmetic on models without weights (a few seconds, half a gigabyte), so nothing is recorded. What is printed is
the tables of docs/paper_layouts.md, which explains the differences; --json prints one JSON object instead.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from videoflamingo.models.layouts import (
    PAPER_SIZES,
    VOCABULARY,
    ParameterCounts,
    count_parameters,
    untrained_flamingo,
)

MODELS, VERSIONS = ("3B", "9B", "80B"), ("v1", "v2")
# Flamingo v2 table 5; where the text's bullets say another number than the table, it comes second.
PUBLISHED = {
    "language model": ("1.4B", "7.1B", "70B"),
    "gated blocks": ("1.2B or 1.4B", "1.6B or 1.8B", "10B"),
    "resampler": ("194M", "194M", "194M"),
    "tower": ("435M", "435M", "435M"),
    "new tokens": ("-", "-", "-"),
    "total": ("3.2B", "9.3B", "80B"),
}
Counts = dict[str, dict[str, ParameterCounts]]  # model -> version -> counts


def measured() -> Counts:
    return {
        name: {version: count_parameters(untrained_flamingo(name, version)) for version in VERSIONS} for name in MODELS
    }


def readings(counts: Counts) -> dict[str, dict[str, int]]:
    """Parameters by another reading of the paper, biases and norms of its blocks and language model left out: relative
    positions in the language model, and keys and values read from vectors of the language width E.
    """
    layers = {"3B": ("3B", 24), "9B": ("9B", 40), "9B of 32 layers": ("9B", 32), "80B": ("80B", 80)}
    rows: dict[str, dict[str, int]] = {"language model": {}, "gated blocks": {}, "total": {}}
    for column, (name, num_layers) in layers.items():
        sizes = PAPER_SIZES[name]
        square = sizes.width**2
        # query, key, value, output: 4; feed-forward: 4 + 4; the language model's map of relative positions: 1
        language_model = (4 + 8 + 1) * square * num_layers + VOCABULARY * sizes.width
        gated_blocks = (4 + 8) * square * len(range(0, num_layers, sizes.every))
        rows["language model"][column] = language_model
        rows["gated blocks"][column] = gated_blocks
        rows["total"][column] = language_model + gated_blocks + counts[name]["v1"].resampler + counts[name]["v1"].tower
    return rows


def tables(counts: Counts) -> str:
    """Two Markdown tables: exact counts beside the paper's, and a reading that gives the paper's."""
    lines = ["| part | 3B | paper | 9B | paper | 80B | paper |", "| --- |" + " ---: |" * 6]
    for part, published in PUBLISHED.items():
        numbers = {
            version: [getattr(counts[name][version], part.replace(" ", "_")) for name in MODELS] for version in VERSIONS
        }
        same = numbers["v1"] == numbers["v2"]
        for version in VERSIONS[-1:] if same else VERSIONS:
            cells = [f"{number:,} | {said}" for number, said in zip(numbers[version], published, strict=True)]
            lines.append(f"| {part if same else f'{part}, {version}'} | {' | '.join(cells)} |")
    rows = readings(counts)
    lines += ["", f"| another reading | {' | '.join(rows['total'])} | paper |", "| --- |" + " ---: |" * 5]
    for part, columns in rows.items():
        said = ", ".join(number.partition(" ")[0] for number in PUBLISHED[part])
        lines.append(f"| {part} | {' | '.join(f'{number / 1e9:.2f}B' for number in columns.values())} | {said} |")
    return "\n".join(lines)


def as_json(counts: Counts) -> dict[str, Any]:
    return {
        "counts": {
            name: {version: {**vars(parts), "total": parts.total} for version, parts in versions.items()}
            for name, versions in counts.items()
        },
        "published": PUBLISHED,
        "another_reading": readings(counts),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    options = parser.parse_args(argv)
    counts = measured()
    print(json.dumps(as_json(counts)) if options.json else tables(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
