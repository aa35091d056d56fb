"""`import videoflamingo` is cheap, and still everything public is there."""

import subprocess
import sys

import pytest

import videoflamingo


def loaded_after(statement: str) -> set[str]:
    """Top-level names in `sys.modules` of a fresh interpreter that ran a statement."""
    script = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("statement", ["import videoflamingo", "import videoflamingo.cli"])
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "numpy", "transformers", "timm", "lightning", "av", "decord"}
    assert loaded_after(statement) & heavy == set()


def test_decode_workers_can_load_clips_without_torch() -> None:
    assert "torch" not in loaded_after("from videoflamingo import load_clip, Clip, VideoInfo")


@pytest.mark.parametrize("name", [name for name in videoflamingo.__all__ if name != "__version__"])
def test_every_public_name_loads(name: str) -> None:
    assert getattr(videoflamingo, name).__module__.startswith("videoflamingo.")


def test_names_not_loaded_yet_are_listed() -> None:
    assert set(videoflamingo.__all__) <= set(dir(videoflamingo))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Flamingoes'"):
        videoflamingo.Flamingoes  # noqa: B018
