"""What every test may rely on: GPU tests are skipped without CUDA, or failed where a GPU was promised."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` without CUDA; with VIDEOFLAMINGO_REQUIRE_GPU=1 they run, and `needs_gpu` fails them."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing or os.environ.get("VIDEOFLAMINGO_REQUIRE_GPU") == "1" or cuda_is_available():
        return
    for item in needing:
        item.add_marker(
            pytest.mark.skip(reason="needs a GPU with CUDA; VIDEOFLAMINGO_REQUIRE_GPU=1 makes this a failure")
        )


@pytest.fixture(autouse=True)
def needs_gpu(request: pytest.FixtureRequest) -> None:
    """Fail a test marked `gpu` that runs without CUDA, with one sentence instead of torch's traceback."""
    if request.node.get_closest_marker("gpu") and not cuda_is_available():
        pytest.fail("VIDEOFLAMINGO_REQUIRE_GPU=1, but PyTorch finds no CUDA device", pytrace=False)


def cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()
