"""One command, `videoflamingo`. A program is imported when its name is typed, and not before."""

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple, NoReturn

from videoflamingo import __version__
from videoflamingo.errors import VideoError, VideoFlamingoError

EXIT_USAGE, EXIT_INPUT_FAILED, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 3, 130, 141


class Command(NamedTuple):
    """A program the command line can reach.

    Args:
        module: dotted name of a module with `main(argv: list[str]) -> int`.
        purpose: one line for the list of commands.
        passes_name: whether `main` is given the command's own name first (LightningCLI has its own subcommands).
    """

    module: str
    purpose: str
    passes_name: bool = False


_TRAINING = "videoflamingo.training.cli"

COMMANDS = {
    "ask": Command("videoflamingo.tools.ask", "answer a question about videos, caption them, or rank answers"),
    "inspect": Command("videoflamingo.tools.inspect_video", "show what is in a video file and what would be sampled"),
    "demo": Command("videoflamingo.tools.demo", "let the bundled model answer questions about sample videos"),
    "scan": Command("videoflamingo.tools.scan_videos", "check a folder of videos and write an index of their health"),
    "fewshot": Command(
        "videoflamingo.tools.fewshot_qa", "measure few-shot video question answering by the paper's protocol"
    ),
    "recipes": Command("videoflamingo.tools.recipes", "list, copy and check training recipes"),
    "average": Command("videoflamingo.tools.average", "average checkpoints that began as one"),
    "cache-features": Command("videoflamingo.tools.cache_features", "keep what the tower makes of a recipe's videos"),
    "convert-openflamingo": Command(
        "videoflamingo.tools.convert_openflamingo", "turn an OpenFlamingo checkpoint into ours"
    ),
    "fit": Command(_TRAINING, "train a model from a recipe", passes_name=True),
    "validate": Command(_TRAINING, "measure a model on a recipe's validation split", passes_name=True),
    "test": Command(_TRAINING, "measure a model on a recipe's test split", passes_name=True),
    "predict": Command(_TRAINING, "write a model's answers for a recipe's data", passes_name=True),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of the process if None.

    Returns:
        The exit status: 0 success, 2 wrong usage or unusable model, 3 some input failed, 130 interrupted (Ctrl-C),
        141 whoever read our output went away.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    videoflamingo ...
    0
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments:
        print(_usage(), file=sys.stderr)
        return EXIT_USAGE
    if arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"videoflamingo {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        return _report(_unknown(name), EXIT_USAGE)
    try:
        command = COMMANDS[name]
        program: Callable[[list[str]], int] = import_module(command.module).main
        status = program([name, *rest] if command.passes_name else rest)
        sys.stdout.flush()  # so that a reader who went away is noticed here and not while the interpreter ends
        return status
    except VideoError as error:
        return _report(str(error), EXIT_INPUT_FAILED)
    except VideoFlamingoError as error:
        return _report(str(error), EXIT_USAGE)
    except SystemExit as leaving:  # argparse leaves this way, after printing its own message
        return _status(leaving)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return EXIT_BROKEN_PIPE


def entry() -> NoReturn:
    """The console script: run the process's own arguments and leave with their exit status."""
    sys.exit(main())


def _usage() -> str:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {command.purpose}" for name, command in COMMANDS.items())
    return (
        "usage: videoflamingo COMMAND [ARGUMENTS]\n\n"
        f"commands:\n{listing}\n\n"
        "`videoflamingo COMMAND --help` explains one; `videoflamingo --version` names the installed version."
    )


def _unknown(name: str) -> str:
    close = get_close_matches(name, COMMANDS, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else f"known commands: {', '.join(COMMANDS)}"
    kind = "option" if name.startswith("-") else "command"
    return f"unknown {kind} {name!r}; {remedy}"


def _report(message: str, status: int) -> int:
    print(f"videoflamingo: error: {message}", file=sys.stderr)
    return status


def _status(leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return leaving.code or 0
    print(leaving.code, file=sys.stderr)
    return 1


def _discard_output() -> None:
    """Point standard output at nothing, so that the interpreter's last flush finds no broken pipe either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
