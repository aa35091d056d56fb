"""Files that are whole or not there."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videoflamingo.errors import ModelError
from videoflamingo.training.checkpoint_files import (
    CheckedCheckpointIO,
    KeptCheckpoints,
    newest_checkpoint,
    problem_of,
    save_whole,
    step_file,
    step_files,
    written_whole,
)

CONTENT = {"weights": torch.arange(1000.0), "step": 3, "nested": {"list": [1, 2.5, "text", None]}}


def saved(folder: Path, *steps: int) -> list[Path]:
    paths = [step_file(folder, step) for step in steps]
    for path, step in zip(paths, steps, strict=True):
        save_whole({**CONTENT, "step": step}, path)
    return paths


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_what_is_saved_is_loaded_and_any_torch_reads_it(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 3)
    for loaded in (CheckedCheckpointIO().load_checkpoint(path), torch.load(path), torch.load(path, mmap=True)):
        assert torch.equal(loaded["weights"], CONTENT["weights"])
        assert loaded["step"] == 3 and loaded["nested"] == CONTENT["nested"]
    assert os.listdir(tmp_path) == [path.name]


def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 3)
    data = path.read_bytes()
    for place in [*range(0, len(data), 97), *range(len(data) - 80, len(data))]:
        flip(path, place)
        assert problem_of(path) is not None, place
        path.write_bytes(data)
    for size in (0, 1, 72, 73, 74, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert problem_of(path) is not None, size
    path.write_bytes(data)
    assert problem_of(path) is None


def test_a_damaged_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 3)
    flip(path, 500)
    with pytest.raises(ModelError, match=r"step-00000003.*it was damaged after it was written; give another"):
        CheckedCheckpointIO().load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "made"),))

    save_whole(Code(), tmp_path / "code.ckpt")
    with pytest.raises(Exception, match="weights_only"):
        CheckedCheckpointIO().load_checkpoint(tmp_path / "code.ckpt")
    assert not (tmp_path / "made").exists()


def test_an_error_while_writing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail() -> None:
        with written_whole(path) as file:
            file.write(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["file"]


# Runs in a process of its own, in which no file may grow beyond 100,000 bytes, so that writing really fails.
FULL = """
import resource, sys
from pathlib import Path
import torch
from videoflamingo.training.checkpoint_files import save_whole
path = Path(sys.argv[1])
save_whole({"size": torch.zeros(1000)}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_whole({"size": torch.zeros(1_000_000)}, path)
except OSError as error:
    print("failed:", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_the_checkpoint_as_it_was_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.ckpt"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=False)
    assert "failed:" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == [path.name]
    assert len(CheckedCheckpointIO().load_checkpoint(path)["size"]) == 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("call", ["fsync", "replace", "after"])
def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new_content(tmp_path: Path, call: str) -> None:
    (path,) = saved(tmp_path, 3)
    child = os.fork()
    if child == 0:  # ends where the parent's copy of it is told to, without any clean-up
        events = {"fsync": "os.fsync", "replace": "os.rename", "after": "os.open"}
        _end_at(events[call])
        save_whole({**CONTENT, "step": 4}, path)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert problem_of(path) is None
    assert torch.load(path)["step"] == (4 if call == "after" else 3)


def _end_at(event: str) -> None:
    """End this process at the first audit event of a name (fsync has none: when it is called)."""
    if event == "os.fsync":
        os.fsync = lambda number: os._exit(9)  # type: ignore[assignment]
        return

    def audit(name: str, arguments: tuple[object, ...]) -> None:
        if name == event or (event == "os.open" and name == "open" and os.path.isdir(str(arguments[0]))):
            os._exit(9)

    sys.addaudithook(audit)


def test_the_newest_whole_checkpoint_is_found_and_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = saved(tmp_path, 9, 10, 100000000)
    assert newest_checkpoint(tmp_path) == third and not caplog.records
    flip(third, 300)
    second.write_bytes(second.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == first
    assert f"checkpoint {third} does not have the content" in caplog.text
    assert f"checkpoint {second} has no checksum" in caplog.text and caplog.text.count(f"using {first} instead") == 2


def test_a_folder_without_a_whole_checkpoint_has_no_newest(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nothing") is None
    step_file(tmp_path, 1).write_bytes(b"")
    (tmp_path / "step-00000002.ckpt.part").write_bytes(b"")
    assert newest_checkpoint(tmp_path) is None


def test_the_newest_whole_ones_stay_and_a_damaged_one_does_not_count(tmp_path: Path) -> None:
    paths = saved(tmp_path, 1, 2, 3, 4)
    flip(paths[2], 300)
    kept = KeptCheckpoints(tmp_path, keep=2)
    kept.added(paths[3])
    assert step_files(tmp_path) == [paths[3], paths[2], paths[1]]


def test_a_run_that_begins_earlier_sets_later_checkpoints_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = saved(tmp_path, 1, 5)
    part = tmp_path / "step-00000002.ckpt.part"
    part.write_bytes(b"half")
    kept = KeptCheckpoints(tmp_path, keep=2)
    kept.begin(1)
    assert step_files(tmp_path) == paths[:1] and not part.exists()
    assert (tmp_path / "step-00000005.ckpt.aside1").exists()
    assert "--ckpt_path auto" in caplog.text
    saved(tmp_path, 5)
    kept.begin(0)
    assert (tmp_path / "step-00000005.ckpt.aside2").exists() and not step_files(tmp_path)
