"""One process of two that score together: `gathering_program.py RANK MEETING_FILE OUT`. Run by test_accumulated.py."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from videoflamingo.metrics import Bleu, ChoiceAccuracy, CiderD, ExactMatch, RougeL

SAID = ["a dog runs in the park", "two cats sleep", "日本語 café", "a man sings", ""]
RIGHT = [["a dog is running in a park", "the dog runs"], ["two cats sleep here"], ["日本語"], ["he sings"], ["a bird"]]


def metrics() -> dict[str, Any]:
    return {
        "cider": CiderD(),
        "bleu": Bleu(),
        "rouge": RougeL(),
        "match": ExactMatch(),
        "choices": ChoiceAccuracy(),
    }


def feed(found: dict[str, Any], places: list[int]) -> None:
    ids = [f"v{place}" for place in places]
    said, right = [SAID[place] for place in places], [RIGHT[place] for place in places]
    for name in ("cider", "bleu", "rouge"):
        found[name].update(said, right, ids)
    found["match"].update(said, right, ["cats" if place == 1 else "" for place in places], ids)
    found["choices"].update([place % 2 for place in places], [0] * len(places), ids=ids)


def computed(found: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return {name: one.item() for name, one in value.items()} if isinstance(value, dict) else value.tolist()

    return {name: plain(metric.compute()) for name, metric in found.items()}


def main() -> None:
    rank, meeting, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    results = []
    # unequal parts with a sample in both, as samplers repeat them; and a process that saw nothing
    for parts in ([[0, 1, 2, 0], [3, 4]], [[0, 1, 2, 3, 4], []]):
        found = metrics()
        for place in parts[rank]:
            feed(found, [place])
        results.append(computed(found))
    out.write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
