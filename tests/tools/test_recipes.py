"""`videoflamingo recipes`: list, copy without losing anyone's work, and check."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from videoflamingo.tools import recipes

from videoflamingo.cli import main
from videoflamingo.errors import UsageError

RECIPE = """\
# purpose: train the bridge
#   on drawings
# command: videoflamingo fit --config recipes/world/tiny.yaml
model:
  width: 384
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipes folder with the one recipe `world/tiny`; the current folder is another one, and empty."""
    bundled = tmp_path / "recipes"
    (bundled / "world").mkdir(parents=True)
    (bundled / "world" / "tiny.yaml").write_text(RECIPE)
    monkeypatch.setattr(recipes, "bundled_folder", lambda: bundled)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return bundled


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is handed to the training command's parser, which rejects files that hold the word `wrong`."""
    seen: list[list[str]] = []

    def parse(args: list[str]) -> None:
        seen.append(args)
        if "wrong" in Path(args[-1]).read_text():
            raise UsageError("key 'wrong' is not expected")

    monkeypatch.setitem(sys.modules, "videoflamingo.training.cli", SimpleNamespace(parse=parse))
    return seen


def test_ls_shows_name_and_purpose(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "ls"]) == 0
    assert capsys.readouterr().out == "world/tiny  train the bridge on drawings\n"


def test_ls_json_has_the_whole_header(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "world/tiny",
        "path": str(folder / "world/tiny.yaml"),
        "purpose": "train the bridge on drawings",
        "command": "videoflamingo fit --config recipes/world/tiny.yaml",
    }


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["world/tiny"], "tiny.yaml"),
        (["world/tiny", "mine.yaml"], "mine.yaml"),
        (["world/tiny.yaml", "."], "tiny.yaml"),
    ],
)
def test_cp_writes_a_copy_and_says_where(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], written: str
) -> None:
    assert main(["recipes", "cp", *arguments]) == 0
    assert Path(written).read_text() == RECIPE
    assert capsys.readouterr().out == f"{written}\n"


def test_cp_leaves_an_existing_file_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.yaml").write_text("my work")
    assert main(["recipes", "cp", "world/tiny"]) == 2
    assert Path("tiny.yaml").read_text() == "my work"
    assert "tiny.yaml exists and is left as it is; name another file" in capsys.readouterr().err


def test_cp_replaces_a_file_only_when_told_to(folder: Path) -> None:
    Path("tiny.yaml").write_text("old")
    assert main(["recipes", "cp", "world/tiny", "--overwrite"]) == 0
    assert Path("tiny.yaml").read_text() == RECIPE


def test_cp_into_a_missing_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "cp", "world/tiny", "missing/mine.yaml"]) == 2
    assert "the folder missing does not exist" in capsys.readouterr().err


def test_an_unknown_recipe_is_answered_with_the_known_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "cp", "world/huge"]) == 2
    assert "no recipe is named 'world/huge'; known recipes: world/tiny" in capsys.readouterr().err


def test_validate_takes_names_and_files_and_goes_on_after_a_wrong_one(
    folder: Path, parsed: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("# command: videoflamingo test --config mine.yaml\nwrong: 1\n")
    assert main(["recipes", "validate", "mine.yaml", "world/tiny"]) == 3
    assert parsed == [
        ["test", "--config", "mine.yaml"],
        ["fit", "--config", str(folder / "world/tiny.yaml")],
    ]
    out, err = capsys.readouterr()
    assert out == "world/tiny: ok\n"
    assert err == "mine.yaml: key 'wrong' is not expected\n"


def test_a_part_is_checked_together_with_what_its_own_command_names(folder: Path, parsed: list[list[str]]) -> None:
    command = "# command: videoflamingo fit --config recipes/world/tiny.yaml --a.b=1 --config recipes/overlay.yaml\n"
    (folder / "overlay.yaml").write_text(command)
    Path("renamed.yaml").write_text(command)
    assert main(["recipes", "validate", "overlay", "renamed.yaml"]) == 0
    whole = str(folder / "world/tiny.yaml")
    assert parsed == [
        ["fit", "--config", whole, "--a.b=1", "--config", str(folder / "overlay.yaml")],
        ["fit", "--config", whole, "--a.b=1", "--config", "renamed.yaml"],
    ]


def test_validate_json_is_one_line_a_recipe(
    folder: Path, parsed: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "validate", "--json", "world/tiny"]) == 0
    assert json.loads(capsys.readouterr().out) == {"recipe": "world/tiny", "ok": True, "error": None}
