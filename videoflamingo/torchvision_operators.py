"""Lets a CUDA build of torchvision be imported beside a CPU build of PyTorch. We use no torchvision ourselves.

timm, lightning, torchmetrics and parts of transformers import torchvision. Its published Linux build is a CUDA build,
whose compiled library cannot load beside CPU PyTorch; `import torchvision` then fails while it attaches shape functions
to operators that nobody declared: `operator torchvision::nms does not exist`. Declaring their schemas is enough:
nothing we use ever calls them, and whoever calls one is told that the compiled library is missing.

See docs/decisions/0001-torchvision-operators.md.
"""

import importlib.util
import sys
import threading
from importlib.machinery import PathFinder

OPERATOR_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_declaring = threading.Lock()


def declare_missing_operators() -> bool:
    """Declare torchvision's operators if, and only if, its own library cannot provide them.

    Call it before importing timm, lightning, torchmetrics or transformers; any number of times, from any thread. Does
    nothing where torchvision is absent, already imported, or works.

    Returns:
        Whether operators were declared by this call.
    """
    if sys.platform != "linux" or "torchvision" in sys.modules:  # elsewhere the published builds are CPU builds
        return False
    with _declaring:
        package = importlib.util.find_spec("torchvision")
        if package is None or package.submodule_search_locations is None:
            return False
        if _library_loads(list(package.submodule_search_locations)):
            return False
        return _declare()


def _library_loads(package_folders: list[str]) -> bool:
    """Load torchvision's compiled library as torchvision itself does, which is harmless to repeat."""
    import torch

    library = PathFinder.find_spec("_C", package_folders)
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except (ImportError, OSError):
        return False
    return True


def _declare() -> bool:
    import torch

    missing = [name for name in OPERATOR_SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    for name in missing:
        torch.library.define(f"torchvision::{name}", OPERATOR_SCHEMAS[name])
    return bool(missing)
