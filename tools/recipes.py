"""`videoflamingo recipes`: list the training recipes that come with the package, copy one, and check any."""

import argparse
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from videoflamingo.errors import UsageError

HEADER_FIELDS = ("purpose", "command", "data", "hardware", "metric")
"""What the comment at the top of a recipe tells, in this order; recipes/README.md explains each."""


@dataclass(frozen=True)
class Recipe:
    """A YAML file and what its header says.

    Args:
        name: path below `recipes/` without the suffix, such as `world/tiny`.
        path: where the file lies.
        header: the fields of `HEADER_FIELDS` that are present, continuation lines joined.
    """

    name: str
    path: Path
    header: dict[str, str]

    @property
    def purpose(self) -> str:
        """One line, or a note that the recipe does not say."""
        return self.header.get("purpose", "(no purpose given)")

    @property
    def subcommand(self) -> str:
        """Which of fit, validate, test and predict the recipe is for: its own command says it; fit by default."""
        words = shlex.split(self.header.get("command", ""))
        return words[1] if len(words) > 1 else "fit"

    @property
    def arguments(self) -> list[str]:
        """What its own command gives the subcommand, with this file in its place and the package's recipes in theirs.

        A recipe may be a part that needs others, such as a dataset without a model.
        """
        words = shlex.split(self.header.get("command", ""))[2:] or ["--config", str(self.path)]
        known = {f"recipes/{recipe.name}.yaml": str(recipe.path) for recipe in bundled()}
        own = [
            number for number, word in enumerate(words) if word.endswith(".yaml") and Path(word).name == self.path.name
        ]
        if not own:  # renamed: in place of the last
            own = [max(number for number, word in enumerate(words) if word.endswith(".yaml"))]
        return [str(self.path) if number == own[-1] else known.get(word, word) for number, word in enumerate(words)]


def read_header(text: str) -> dict[str, str]:
    """Fields of the comment at the top of a recipe.

    A field is `# name: text`; lines indented by more than one space after the `#` continue it.

    >>> read_header("# purpose: train on\\n#   two folders\\n# command: videoflamingo fit\\nmodel: 1")
    {'purpose': 'train on two folders', 'command': 'videoflamingo fit'}
    """
    header: dict[str, str] = {}
    field = None
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if start := re.fullmatch(rf"# ({'|'.join(HEADER_FIELDS)}): (.+)", line):
            field = start[1]
            header[field] = start[2].strip()
        elif field is not None and line.startswith("#  "):
            header[field] += " " + line[1:].strip()
        else:
            field = None
    return header


def bundled_folder() -> Path:
    """Where the recipes of this installation lie: `recipes/` in a checkout, inside the package elsewhere."""
    return Path(str(files("videoflamingo.recipes")))


def bundled() -> Iterator[Recipe]:
    """Every recipe that comes with the package, by name."""
    folder = bundled_folder()
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        yield Recipe(name, path, read_header(path.read_text("utf-8")))


def find(name: str) -> Recipe:
    """A bundled recipe by its name.

    Raises:
        UsageError: if there is none of that name.
    """
    wanted = name.removesuffix(".yaml")
    recipes = list(bundled())
    for recipe in recipes:
        if recipe.name == wanted:
            return recipe
    known = ", ".join(recipe.name for recipe in recipes) or "none"
    raise UsageError(f"no recipe is named {name!r}; known recipes: {known}")


def copy(name: str, destination: Path | None, overwrite: bool = False) -> Path:
    """Copy a bundled recipe to be edited.

    Args:
        name: the recipe.
        destination: a file, or a folder to put it in; by default the recipe's own file name, here.
        overwrite: whether an existing file may be replaced.

    Returns:
        The file written.

    Raises:
        UsageError: if there is no such recipe, the file exists, or its folder does not.
    """
    recipe = find(name)
    target = destination or Path(recipe.path.name)
    if target.is_dir():
        target /= recipe.path.name
    if not target.parent.is_dir():
        raise UsageError(f"{target}: the folder {target.parent} does not exist; create it first")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists and is left as it is; name another file, or replace it with --overwrite")
    shutil.copyfile(recipe.path, target)
    return target


def check(source: str) -> Recipe:
    """Parse a recipe, and others its own command puts beside it, against the real signatures of the classes they name.

    Nothing is built.

    Args:
        source: a YAML file, or the name of a bundled recipe.

    Raises:
        UsageError: if it is neither, or does not parse; the message names the key.
    """
    path = Path(source)
    recipe = Recipe(source, path, read_header(path.read_text("utf-8", "replace"))) if path.is_file() else find(source)

    from videoflamingo.training.cli import parse

    parse([recipe.subcommand, *recipe.arguments])
    return recipe


def main(argv: list[str]) -> int:
    """Run `videoflamingo recipes`; 0 on success, 3 if a recipe to validate is wrong."""
    arguments = _parser().parse_args(argv)
    status: int = arguments.run(arguments)
    return status


def _list(arguments: argparse.Namespace) -> int:
    recipes = list(bundled())
    if arguments.json:
        for recipe in recipes:
            print(json.dumps({"name": recipe.name, "path": str(recipe.path), **recipe.header}))
        return 0
    width = max((len(recipe.name) for recipe in recipes), default=0)
    for recipe in recipes:
        print(f"{recipe.name:<{width}}  {recipe.purpose}")
    return 0


def _copy(arguments: argparse.Namespace) -> int:
    target = copy(arguments.name, arguments.destination, arguments.overwrite)
    print(json.dumps({"name": arguments.name, "path": str(target)}) if arguments.json else target)
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    status = 0
    for source in arguments.sources:
        try:
            check(source)
            error = None
        except UsageError as failure:
            error = str(failure)
            status = 3
        if arguments.json:
            print(json.dumps({"recipe": source, "ok": error is None, "error": error}))
        elif error is None:
            print(f"{source}: ok")
        else:
            print(f"{source}: {error}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="videoflamingo recipes", description="Training recipes of this package.")
    commands = parser.add_subparsers(required=True, metavar="ls | cp | validate")

    listing = commands.add_parser("ls", help="list the recipes and what each is for")
    listing.set_defaults(run=_list)

    copying = commands.add_parser("cp", help="copy a recipe to a file of your own")
    copying.add_argument("name", metavar="NAME", help="a name that `ls` shows")
    copying.add_argument("destination", metavar="DEST", nargs="?", type=Path, help="file or folder; here by default")
    copying.add_argument("--overwrite", action="store_true", help="replace DEST if it exists")
    copying.set_defaults(run=_copy)

    checking = commands.add_parser("validate", help="check recipes against the code, without running them")
    checking.add_argument("sources", metavar="RECIPE", nargs="+", help="a YAML file, or a name that `ls` shows")
    checking.set_defaults(run=_validate)

    for command in (listing, copying, checking):
        command.add_argument("--json", action="store_true", help="one JSON object per line on standard output")
    return parser
