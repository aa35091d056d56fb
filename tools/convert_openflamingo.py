"""`videoflamingo convert-openflamingo`: an OpenFlamingo checkpoint as a checkpoint folder of ours."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from videoflamingo.models.checkpoint import write_checkpoint
from videoflamingo.models.openflamingo import convert_openflamingo, default_vision, read_openflamingo

DESCRIPTION = """\
Write CHECKPOINT, a checkpoint.pt of OpenFlamingo (v1 or v2), as a folder with config.json and trainable.safetensors.
Nothing in the file is executed. The frozen parts are named, not copied: name the language model it was trained with
(a folder, or a name on a hub), such as

  videoflamingo convert-openflamingo checkpoint.pt --language-model anas-awadalla/mpt-1b-redpajama-200b --out mpt1b

Logits equal OpenFlamingo's. It was trained on single pictures: frames of a video are a bag to it.
"""


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    vision = default_vision()
    parser = argparse.ArgumentParser(
        prog="videoflamingo convert-openflamingo",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--language-model", required=True, metavar="NAME", help="what it was trained with")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--tower", default=vision.tower, metavar="NAME", help=f"default: {vision.tower}")
    parser.add_argument(
        "--features",
        choices=["final", "before_norm"],
        default=vision.features,
        help="default: before_norm, as open_clip up to 2.22 gave them; final for models trained with a later one",
    )
    parser.add_argument(
        "--vocabulary-size",
        type=int,
        metavar="N",
        help="length of the language model's own tokenizer; by default the stored rows less OpenFlamingo's new tokens",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: list[str]) -> int:
    """Run the command.

    Raises:
        ModelError: if the file is no OpenFlamingo checkpoint, or an incomplete one.
    """
    options = make_parser().parse_args(argv)
    state = read_openflamingo(options.checkpoint)
    config, trained = convert_openflamingo(
        state,
        options.language_model,
        vocabulary_size=options.vocabulary_size,
        vision=replace(default_vision(), tower=options.tower, features=options.features),
        source=str(options.checkpoint),
    )
    folder = write_checkpoint(config, trained, options.out, torch.float32)
    cross = config.cross_attention
    about = {
        "out": str(folder),
        "parameters": sum(value.numel() for value in trained.values()),
        "gated_blocks": sum(name.endswith("attention_gate") for name in trained),
        "first": cross.first,
        "every": cross.every,
        "new_tokens": list(config.new_tokens),
        "vocabulary_size": config.vocabulary_size,
    }
    if options.json:
        print(json.dumps(about))
    else:
        print(
            f"{folder}: {about['parameters']:,} weights, {about['gated_blocks']} gated blocks (before layer "
            f"{cross.first} and every {cross.every} from there), new tokens {', '.join(config.new_tokens)} after a "
            f"vocabulary of {config.vocabulary_size:,}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
