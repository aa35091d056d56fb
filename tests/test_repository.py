"""The repository names no path of a machine and no package registry, and carries no large file but the model."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUNDLED_MODEL = "videoflamingo/bundled/tiny/trainable.safetensors"
MEGABYTE = 1_000_000

MACHINE_PATH = re.compile(r"(?<![\w.:/~$}>-])/(?:home|root|Users|work|opt|srv|mnt|media)/[\w.]+")
REGISTRY_HOST = re.compile(r"\b(?:[\w-]+\.)*(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org)\b")


def carried_files() -> list[Path]:
    """Files that are in git or would be added to it; every file, where this is no git checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("needs a git checkout: without one, what is carried cannot be told from what lies around")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for file in carried_files():
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # not text
        for number, line in enumerate(text.splitlines(), start=1):
            if match := pattern.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number} {match.group()}")
    return found


def test_no_path_of_a_machine_is_named() -> None:
    assert lines_with(MACHINE_PATH) == []


def test_no_package_registry_is_named() -> None:
    assert lines_with(REGISTRY_HOST) == []


def test_no_large_file_but_the_bundled_model() -> None:
    sizes = {file.relative_to(ROOT).as_posix(): file.stat().st_size for file in carried_files()}
    large = {name: size for name, size in sizes.items() if size > MEGABYTE and name != BUNDLED_MODEL}
    assert large == {}


@pytest.mark.parametrize("text", ["/home" "/ann/clips", "open('/work" "/main/x')"])  # fmt: skip
def test_the_search_would_find_a_machine_path(text: str) -> None:
    assert MACHINE_PATH.search(text)


# In pieces, so that whoever searches these files for paths of a machine does not find them.
@pytest.mark.parametrize(
    "pieces",
    [("docs", "work", "plan.md"), ("https:", "", "example.org", "home", "page"), ("frames", "root", "0.png")],
)
def test_the_search_lets_other_paths_be(pieces: tuple[str, ...]) -> None:
    assert not MACHINE_PATH.search("/".join(pieces))
