"""Checkpoint files that are whole or not there: written beside their place, checked, and only then given their name.

A checkpoint is the zip file that `torch.save` writes, so `torch.load` reads it. The SHA-256 of its content stands in
the zip file's own comment, at its very end.
"""

import hashlib
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from videoflamingo.errors import ModelError
from videoflamingo.torchvision_operators import declare_missing_operators

declare_missing_operators()
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO  # noqa: E402  (needs the declaration above)

logger = logging.getLogger(__name__)

PART = ".part"  # appended to the name of a file that is being written
STEP_FILE = re.compile(r"step-(\d{8,})\.ckpt")
READ_AT_ONCE = 1 << 22
COMMENT = b"sha256:%s"
NUM_COMMENT_BYTES = len(COMMENT % hashlib.sha256().hexdigest().encode())
LENGTH_FIELD = struct.Struct("<H")  # of the comment; the last field of a zip file, after which the comment stands
NO_COMMENT = LENGTH_FIELD.pack(0)


def step_file(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimisation steps is."""
    return folder / f"step-{step:08d}.ckpt"


def step_of(path: Path) -> int:
    """The step in a checkpoint's name.

    Example:
        >>> step_of(Path("run/step-00000100.ckpt"))
        100
    """
    match = STEP_FILE.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def step_files(folder: Path) -> list[Path]:
    """The folder's checkpoints, whole or not, newest first; none if there is no such folder."""
    found = [path for path in folder.glob("step-*.ckpt") if STEP_FILE.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which gets its name when it is whole and on the disk.

    Until then what was there before stays. After an error, nothing is left of the new file; after a kill, its part.

    Raises:
        OSError: if it cannot be written, such as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + PART)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make names last, where the system can (Windows opens no folders)."""
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class _Hashing:
    """What `torch.save` writes to: passes on to a file, sums up, and keeps the first error."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_whole(content: Any, path: Path) -> None:
    """`torch.save` with a checksum; `path` has its old content or all of the new one, whenever the process ends.

    Raises:
        OSError: if it cannot be written. Then `path` is as it was.
    """
    with written_whole(path) as file:
        hashing = _Hashing(file)
        try:
            torch.save(content, cast(BinaryIO, hashing))
        except RuntimeError as error:  # of PyTorch's zip writer, which finds that bytes are missing
            if hashing.failure is None:
                raise
            raise hashing.failure from error
        file.seek(-len(NO_COMMENT), os.SEEK_END)
        file.write(LENGTH_FIELD.pack(NUM_COMMENT_BYTES) + COMMENT % hashing.digest.hexdigest().encode())


def problem_of(path: Path) -> str | None:
    """What is wrong with a checkpoint file of ours, in words; None if its content is what was written."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            num_hashed = size - NUM_COMMENT_BYTES - len(NO_COMMENT)
            file.seek(max(0, num_hashed))
            ending = file.read()
            length, comment = ending[: len(NO_COMMENT)], ending[len(NO_COMMENT) :]
            if num_hashed < 0 or length != LENGTH_FIELD.pack(NUM_COMMENT_BYTES) or not comment.startswith(b"sha256:"):
                return f"has no checksum at its end ({size:,} bytes): it was cut off, or is not a checkpoint of ours"
            file.seek(0)
            digest = hashlib.sha256()
            while piece := file.read(min(READ_AT_ONCE, num_hashed - file.tell())):
                digest.update(piece)
    except OSError as error:
        return f"cannot be read: {error}"
    digest.update(NO_COMMENT)
    if comment != COMMENT % digest.hexdigest().encode():
        return "does not have the content that its checksum was made of: it was damaged after it was written"
    return None


class CheckedCheckpointIO(CheckpointIO):
    """Lightning's plug-in that writes with `save_whole` and loads nothing that fails its checksum."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Replace `path` by the checkpoint.

        Raises:
            OSError: if it cannot be written. Then `path` is as it was.
        """
        save_whole(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """What was saved, on the CPU.

        Args:
            path: of the file.
            map_location: as in `torch.load`.
            weights_only: whether to refuse everything but tensors and plain Python values, of which our checkpoints are
                made; None means yes. Give False only for a file that you trust as you trust a program.

        Raises:
            ModelError: if there is no such file, or it is not whole.
        """
        problem = problem_of(Path(path))
        if problem is not None:
            raise ModelError(
                f"checkpoint {path} {problem}; give another one, or `--ckpt_path auto` for the newest that is whole"
            )
        return torch.load(path, map_location, weights_only=weights_only is not False)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove the file, if there is one."""
        Path(path).unlink(missing_ok=True)


def newest_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint of most steps that is whole; None if there is none.

    Those that are not are passed over, and a warning names them.
    """
    warnings: list[str] = []
    found: Path | None = None
    for path in step_files(Path(folder)):
        problem = problem_of(path)
        if problem is None:
            found = path
            break
        warnings.append(f"checkpoint {path} {problem}")
    for warning in warnings:
        logger.warning("%s; %s", warning, f"using {found} instead" if found else "there is no other one")
    return found


class KeptCheckpoints:
    """Which files of a folder stay: the newest `keep` whole ones.

    Args:
        folder: of one run.
        keep: how many.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._whole: set[Path] = set()

    def begin(self, step: int) -> None:
        """Make room for a run that goes on from `step`: what it will not come from must not be taken for its own.

        Unfinished parts are removed. Checkpoints of more steps are renamed, with a warning.
        """
        for path in self.folder.glob(f"step-*.ckpt{PART}"):
            path.unlink()
        for path in reversed(step_files(self.folder)):
            if step_of(path) > step:
                aside = _free_name(path)
                path.rename(aside)
                logger.warning(
                    "%s is of more steps than this run begins with (%d); renamed to %s. To go on from the newest "
                    "checkpoint, start with `--ckpt_path auto`",
                    *(path, step, aside.name),
                )

    def added(self, path: Path) -> None:
        """Remove the oldest, after `path` was written whole."""
        self._whole.add(path)
        num_whole = 0
        for found in step_files(self.folder):
            if num_whole >= self.keep:
                found.unlink()
                self._whole.discard(found)
            elif found in self._whole or problem_of(found) is None:
                self._whole.add(found)
                num_whole += 1


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.aside{number}")).exists():
        number += 1
    return name
