"""Every recipe in recipes/ says what it is, is short, and fits the code it names."""

import shlex
from pathlib import Path

import pytest
from videoflamingo.tools.recipes import HEADER_FIELDS, read_header

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())


def command_of(recipe: Path) -> list[str]:
    return shlex.split(read_header(recipe.read_text("utf-8"))["command"])


def test_there_are_recipes() -> None:
    assert RECIPES


def test_only_data_lives_in_recipes() -> None:
    strangers = {path.name for path in (ROOT / "recipes").rglob("*") if path.is_file() and path.suffix != ".yaml"}
    assert {name for name in strangers if not name.endswith(".pyc")} <= {"README.md", "__init__.py"}


@each_recipe
def test_a_header_tells_everything_in_order(recipe: Path) -> None:
    assert tuple(read_header(recipe.read_text("utf-8"))) == HEADER_FIELDS


@each_recipe
def test_a_recipe_is_short(recipe: Path) -> None:
    assert len(recipe.read_text("utf-8").splitlines()) < 40


@each_recipe
def test_the_command_runs_this_very_file(recipe: Path) -> None:
    command = command_of(recipe)
    assert command[0] == "videoflamingo"
    assert recipe.relative_to(ROOT).as_posix() in command


@each_recipe
def test_the_command_parses_against_the_real_signatures(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from videoflamingo.training.cli import parse

    monkeypatch.chdir(ROOT)
    parse(command_of(recipe)[1:])
