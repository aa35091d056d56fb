"""torchvision can be imported whatever build of it is installed, and a build that works is left alone."""

import subprocess
import sys

import pytest

from videoflamingo import torchvision_operators
from videoflamingo.torchvision_operators import declare_missing_operators


def run(script: str) -> str:
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_afterwards_torchvision_and_timm_import() -> None:
    declare = "from videoflamingo.torchvision_operators import declare_missing_operators as declare; declare();"
    assert run(declare + "import torchvision, timm; print('imported')") == "imported"


def test_repeating_it_from_threads_declares_once() -> None:
    output = run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from videoflamingo.torchvision_operators import declare_missing_operators as declare\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    print(sum(pool.map(lambda _: declare(), range(32))))"
    )
    assert int(output) <= 1


def test_a_library_that_loads_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torchvision_operators, "_library_loads", lambda folders: True)
    monkeypatch.setattr(torchvision_operators, "_declare", lambda: pytest.fail("declared beside a working library"))
    assert declare_missing_operators() is False


def test_without_torchvision_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert declare_missing_operators() is False
