"""Importing PyTorch, timm and transformers and building a model makes millions of objects that all stay."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection inside, which would look through all those objects again and again: a fifth of a start.

    Nested uses and an already disabled collector are left as they were. What became garbage meanwhile is found by the
    next collection.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
