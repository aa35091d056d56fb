"""A GPU test that cannot run says so, and fails where a GPU was promised."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GPU_TEST = """
import pytest

@pytest.mark.gpu
def test_on_gpu():
    pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder with one GPU test under our own conftest; in a process of its own, since it may import torch."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs CUDA\n")
    (tmp_path / "test_on_gpu.py").write_text(GPU_TEST)
    return tmp_path


def report_of(suite: Path, require_gpu: str) -> str:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "VIDEOFLAMINGO_REQUIRE_GPU": require_gpu}
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(suite)]
    return subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True).stdout


def test_without_a_gpu_a_gpu_test_is_skipped_and_says_what_it_needs(suite: Path) -> None:
    report = report_of(suite, require_gpu="")
    assert "1 skipped" in report
    assert "needs a GPU with CUDA" in report


def test_where_a_gpu_was_promised_the_test_fails(suite: Path) -> None:
    report = report_of(suite, require_gpu="1")
    assert "1 error" in report
    assert "PyTorch finds no CUDA device" in report
