"""Fifty damaged copies of real videos through the pool; `make prove` takes a thousand."""

from benchmarks.damaged_files import DEADLINE_SECONDS, run


def test_each_of_fifty_damaged_copies_ends_in_frames_or_a_named_error() -> None:
    result = run(num_copies=50, seed=1, num_workers=2)
    assert result["faults"] == []
    assert sum(result["outcomes"].values()) == 50
    assert set(result["outcomes"]) >= {"error"}
    assert result["processes_left"] == 0
    assert result["longest_from_request_to_answer_seconds"] < 4 * DEADLINE_SECONDS
    resident = result["parent_resident_mebibytes"]
    assert max(resident[2:]) - resident[1] < 64  # a clip is up to 22 MiB, four of which may be under way
