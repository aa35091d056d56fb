"""Every recipe in recipes/ says what it is, is short, and fits the code it names."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from videoflamingo.tools.recipes import HEADER_FIELDS, read_header

from videoflamingo.models.layouts import PaperModel, paper_layout

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


@each_recipe
def test_the_table_lists_every_recipe(recipe: Path) -> None:
    name = recipe.relative_to(ROOT / "recipes").with_suffix("").as_posix()
    assert f"`{name}`" in (ROOT / "recipes/README.md").read_text("utf-8")


def parsed(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    from videoflamingo.training.cli import parse

    monkeypatch.chdir(ROOT)
    return parse(command_of(ROOT / "recipes" / name)[1:]).fit


@pytest.mark.parametrize("name", ["3B", "9B", "80B"])
def test_the_paper_s_layouts_are_those_of_the_library_but_for_the_language_model(
    name: PaperModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parsed(f"paper/{name.lower()}.yaml", monkeypatch).model.config.as_dict()
    published = asdict(paper_layout(name))
    for part in ("vision", "resampler", "cross_attention", "media_tag", "end_of_chunk"):
        assert config[part] == published[part]


def test_the_paper_s_mixture_has_its_weights_and_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parsed("paper/mixture.yaml", monkeypatch)
    members = {name: (member.weight, member.batch_size) for name, member in recipe.data.members.items()}
    assert members == {
        "pages": (1.0, 256),
        "noisy_pictures": (0.2, 512),
        "described_pictures": (0.2, 512),
        "clips": (0.03, 64),
    }
    assert recipe.data.combine == "accumulate"
    chosen = recipe.model
    assert (chosen.learning_rate, chosen.warmup_steps, chosen.final_learning_rate_share) == (1e-4, 5000, 1.0)
    assert (chosen.weight_decay, chosen.gradient_clip, chosen.loss_on) == (0.1, 1.0, "all")
    assert recipe.trainer.max_steps == 500_000


TRAINING = [path for path in RECIPES if "\ndata:\n  members:" in path.read_text("utf-8")]


@pytest.mark.parametrize("recipe", TRAINING, ids=lambda path: path.stem)
def test_a_recipe_that_trains_saves_its_run_into_a_folder_of_its_own(recipe: Path) -> None:
    trainer = yaml.safe_load(recipe.read_text("utf-8"))["trainer"]
    folders = [one["init_args"]["folder"] for one in trainer["callbacks"] if one["class_path"].endswith(".Checkpoints")]
    assert folders == [trainer["default_root_dir"]]
    others = [path for path in TRAINING if path != recipe and f"{{folder: {folders[0]}}}" in path.read_text("utf-8")]
    assert others == []
