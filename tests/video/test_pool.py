"""The decode pool: any file may hang, crash or gorge, only that file is lost, no process is left, frames are equal."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.video import planted
from videoflamingo.clip import Clip
from videoflamingo.errors import SamplingError, UsageError, VideoError
from videoflamingo.video.options import ReadOptions
from videoflamingo.video.pool import DecodePool
from videoflamingo.video.reader import open_video, read_clip
from videoflamingo.video.sampling import Sampling, uniform_times

Encode = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]
MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    gc.collect()
    left = [child for child in psutil.Process().children(recursive=True) if child not in before]
    assert left == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("decode-")] == []


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool(1) as pool:
        yield pool


def in_this_process(path: str, sampling: Sampling, seed: int | None = None) -> Clip:
    rng = None if seed is None else np.random.default_rng(seed)
    with open_video(path) as video:
        return read_clip(video, sampling, rng)


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def message_of(future: Future[object]) -> str:
    error = future.exception()
    assert isinstance(error, VideoError), error
    return str(error)


# What a decoder may do


@pytest.mark.parametrize("hang", [planted.sleep_with_the_lock, time.sleep])
def test_a_hang_is_killed_at_the_deadline_and_the_next_file_read(pool: DecodePool, hang: Callable[..., None]) -> None:
    hung = pool.run("clip.mp4", hang, 3600, deadline_seconds=0.5)
    after = pool.run("next.mp4", planted.double, 21)
    assert message_of(hung) == (
        "clip.mp4: not read within 0.5 s, so its decoding process was killed; ask for a shorter range, or give a "
        "longer deadline"
    )
    assert after.result() == 42


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_a_crash_names_file_signal_and_last_words_and_the_next_file_is_read(pool: DecodePool, number: int) -> None:
    crashed = pool.run("clip.mp4", planted.die, number)
    after = pool.run("next.mp4", planted.double, 21)
    died = f"clip.mp4: its decoding process died with signal {int(number)} ({signal.Signals(number).name})"
    assert message_of(crashed).startswith(f"{died} (moov atom not found)")
    assert after.result() == 42


def test_a_kill_from_outside_names_the_file(pool: DecodePool, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    hung = pool.run("clip.mp4", planted.spin_with_the_lock, str(mark))
    pid = read_pid(mark)
    os.kill(pid, signal.SIGKILL)
    assert message_of(hung).startswith("clip.mp4: its decoding process died with signal 9 (SIGKILL), sent by another")
    assert pool.run("next.mp4", planted.process).result() != pid


def test_a_worker_killed_while_it_waits_costs_no_file(pool: DecodePool) -> None:
    pid = pool.run("first.mp4", planted.process).result()
    os.kill(pid, signal.SIGKILL)
    until(lambda: has_ended(pid))
    assert pool.run("clip.mp4", planted.process).result() != pid


def test_an_exit_names_the_file_and_the_code(pool: DecodePool) -> None:
    left = pool.run("clip.mp4", planted.leave, 3)
    assert message_of(left).startswith("clip.mp4: its decoding process died with code 3 (no message)")
    assert pool.run("next.mp4", planted.double, 21).result() == 42


def test_a_death_is_seen_although_a_process_it_started_lives_on(pool: DecodePool) -> None:
    assert "died with signal 9" in message_of(pool.run("clip.mp4", planted.fork_and_die))


def test_a_chatty_decoder_neither_blocks_nor_mixes_into_the_answer(
    pool: DecodePool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert pool.run("clip.mp4", planted.print_much, 2000).result() == "done"
    assert capfd.readouterr() == ("", "")


def test_private_memory_above_the_limit_is_refused_and_the_worker_replaced() -> None:
    with DecodePool(1, memory_limit_bytes=300 * MEBIBYTE) as pool:
        pid = pool.run("first.mp4", planted.process).result()
        large = pool.run("clip.mp4", planted.take_private_memory, 400 * MEBIBYTE)
        assert message_of(large) == (
            "clip.mp4: needs more memory than the 300 MiB a decode worker may use; ask for fewer frames, scale them "
            "down with short_side, or give a larger memory_limit_bytes"
        )
        assert pool.run("next.mp4", planted.process).result() != pid


def test_memory_the_kernel_does_not_limit_is_limited_by_the_pool() -> None:
    with DecodePool(1, memory_limit_bytes=300 * MEBIBYTE) as pool:
        large = pool.run("clip.mp4", planted.take_shared_memory, 400 * MEBIBYTE)
        assert "clip.mp4: needs more memory than the 300 MiB" in message_of(large)
        assert pool.run("next.mp4", planted.double, 21).result() == 42


def test_memory_within_the_limit_is_given() -> None:
    with DecodePool(1, memory_limit_bytes=300 * MEBIBYTE) as pool:
        assert pool.run("clip.mp4", planted.take_private_memory, 100 * MEBIBYTE).result() == 100 * MEBIBYTE


def test_memory_that_ran_out_is_not_called_damage(pool: DecodePool) -> None:
    assert "needs more memory" in message_of(pool.run("clip.mp4", planted.run_out_of_memory_as_readers_report_it))


def test_no_file_pays_for_the_memory_others_leaked() -> None:
    with DecodePool(1, memory_limit_bytes=400 * MEBIBYTE) as pool:
        pids = [pool.run("clip.mp4", planted.leak, 150 * MEBIBYTE).result() for _ in range(6)]
    assert len(set(pids)) > 1


def test_a_kill_reaches_what_the_decoder_started(pool: DecodePool, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    hung = pool.run("clip.mp4", planted.start_a_process_and_hang, str(mark), deadline_seconds=5)
    assert "not read within 5 s" in message_of(hung)
    until(lambda: has_ended(int(mark.read_text())))


def test_a_mistake_in_the_function_keeps_its_traceback_and_the_worker(pool: DecodePool) -> None:
    pid = pool.run("first.mp4", planted.process).result()
    error = pool.run("clip.mp4", planted.double, None).exception()
    assert isinstance(error, VideoError)
    assert str(error).startswith("clip.mp4: double failed in a decode worker (TypeError: ")
    assert "in double" in error.__notes__[0]
    assert pool.run("next.mp4", planted.process).result() == pid


def test_errors_of_this_package_arrive_unchanged(pool: DecodePool) -> None:
    with pytest.raises(SamplingError, match=r"^num_frames=0"):
        pool.run("clip.mp4", uniform_times, 8.0, 0).result()


# Requests


def test_what_cannot_be_pickled_is_an_error_and_the_worker_stays(pool: DecodePool) -> None:
    pid = pool.run("first.mp4", planted.process).result()
    sent = pool.run("clip.mp4", planted.echo, threading.Lock())
    returned = pool.run("clip.mp4", threading.Lock)
    with pytest.raises(UsageError, match=r"clip\.mp4: the call of echo cannot be sent to a decode worker \(TypeError"):
        sent.result()
    with pytest.raises(UsageError, match=r"clip\.mp4: what .* returned cannot be sent from a decode worker \(TypeErr"):
        returned.result()
    assert pool.run("next.mp4", planted.process).result() == pid


def test_a_function_of_the_main_script_is_refused_with_the_remedy(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from videoflamingo.video.pool import DecodePool

            def mine():
                return 1

            if __name__ == "__main__":
                with DecodePool(1) as pool:
                    print(pool.run("clip.mp4", mine).exception())
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment(), timeout=120)
    assert "clip.mp4: a decode worker cannot understand the call of mine" in done.stdout, done
    assert "must come from a module that is not the main script" in done.stdout


def test_large_requests_and_answers_arrive_whole(pool: DecodePool) -> None:
    data = np.random.default_rng(0).bytes(5 * MEBIBYTE)
    assert pool.run("clip.mp4", planted.echo, data).result() == data


def test_a_relative_path_means_the_same_file_after_a_change_of_folder(
    pool: DecodePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.run("first.mp4", planted.process).result()
    monkeypatch.chdir(tmp_path)
    assert pool.run("clip.mp4", planted.where_is, "clip.mp4").result() == str(tmp_path / "clip.mp4")


def test_a_worker_uses_one_thread_and_no_torch(pool: DecodePool) -> None:
    assert pool.run("clip.mp4", planted.variable, "OPENBLAS_NUM_THREADS").result() == "1"
    assert pool.run("clip.mp4", planted.variable, "OMP_NUM_THREADS").result() == "1"
    assert "torch" not in pool.run("clip.mp4", planted.modules).result()


@pytest.mark.parametrize(
    "numbers",
    [
        {"num_workers": 0},
        {"deadline_seconds": 0.0},
        {"deadline_seconds": float("nan")},
        {"deadline_seconds": float("inf")},
        {"memory_limit_bytes": MEBIBYTE},
        {"files_per_worker": 0},
    ],
    ids=str,
)
def test_a_number_out_of_range_is_refused_by_name(numbers: dict[str, float]) -> None:
    (name,) = numbers
    with pytest.raises(UsageError, match=f"^{name}="):
        DecodePool(**numbers)  # type: ignore[arg-type]


def test_a_deadline_of_one_call_must_be_above_zero(pool: DecodePool) -> None:
    with pytest.raises(UsageError, match="deadline_seconds=0"):
        pool.run("clip.mp4", planted.process, deadline_seconds=0)


def test_a_worker_is_replaced_after_its_files_and_nothing_is_lost() -> None:
    with DecodePool(1, files_per_worker=3) as pool:
        pids = [future.result() for future in [pool.run("clip.mp4", planted.process) for _ in range(7)]]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def test_as_many_files_are_read_at_once_as_there_are_workers(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    with DecodePool(2) as pool:
        waiting = [pool.run("clip.mp4", planted.wait_for, mark) for mark in (first, second)]
        until(lambda: all(future.running() for future in waiting))
        Path(second).touch()
        assert waiting[1].result() == second
        Path(first).touch()
        assert waiting[0].result() == first


def test_two_pools_do_not_disturb_each_other() -> None:
    with DecodePool(1) as one, DecodePool(1) as other:
        hung = one.run("clip.mp4", planted.sleep_with_the_lock, 3600, deadline_seconds=0.5)
        assert other.run("clip.mp4", planted.double, 21).result() == 42
        assert "not read within" in message_of(hung)
        assert other.run("clip.mp4", planted.double, 4).result() == 8


# Order


def test_results_come_in_order_and_errors_among_them(pool: DecodePool) -> None:
    numbers = [1, None, 3, 4]
    found = [
        (number, future.exception() is None)
        for number, future in pool.map_in_order(numbers, lambda number: pool.run("clip.mp4", planted.double, number))
    ]
    assert found == [(1, True), (None, False), (3, True), (4, True)]


def test_a_million_requests_are_not_taken_at_once() -> None:
    taken = []

    def requests() -> Iterator[int]:
        for number in range(1_000_000):
            taken.append(number)
            yield number

    with DecodePool(2) as pool:
        results = pool.map_in_order(requests(), lambda number: pool.run("clip.mp4", planted.double, number))
        for number in range(10):
            assert next(results)[1].result() == 2 * number
            assert len(taken) - number <= 4 * 2 + 1
        results.close()


def test_leaving_the_iterator_cancels_what_is_under_way(pool: DecodePool, tmp_path: Path) -> None:
    submitted: list[Future[object]] = []

    def submit(number: int) -> Future[object]:
        function, argument = (planted.double, number) if number == 0 else (planted.wait_for, str(tmp_path / "mark"))
        submitted.append(pool.run("clip.mp4", function, argument))
        return submitted[-1]

    results = pool.map_in_order(range(9), submit)
    next(results)
    until(submitted[1].running)
    results.close()
    (tmp_path / "mark").touch()
    assert len(submitted) == 2 or submitted[-1].cancelled()


# Closing


def test_closing_finishes_what_runs_and_cancels_what_waits(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    pool = DecodePool(1)
    running, waiting = (pool.run("clip.mp4", planted.wait_for, mark) for _ in range(2))
    until(running.running)
    closing = threading.Thread(target=pool.close)
    closing.start()
    wait([waiting])
    Path(mark).touch()
    closing.join()
    assert running.result() == mark
    with pytest.raises(CancelledError):
        waiting.result()


@pytest.mark.parametrize("started", [True, False])
def test_closing_without_waiting_kills_what_runs(started: bool, tmp_path: Path) -> None:
    pool = DecodePool(1)
    mark = tmp_path / "pid"
    running = pool.run("clip.mp4", planted.spin_with_the_lock, str(mark))
    until(running.running)
    if started:
        read_pid(mark)
    pool.close(wait=False)
    assert message_of(running).startswith("clip.mp4: not read, because its DecodePool was closed")


def test_an_exception_in_the_with_block_kills_what_runs(tmp_path: Path) -> None:
    pool = DecodePool(1)
    mark = tmp_path / "pid"
    running = pool.run("clip.mp4", planted.spin_with_the_lock, str(mark))

    def interrupted() -> None:
        with pool:
            read_pid(mark)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "was closed" in message_of(running)


def test_a_future_that_ctrl_c_left_locked_keeps_no_killed_pool_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between taking a future's lock and noting that leaves it locked; its answer then waits for ever."""
    monkeypatch.setattr("videoflamingo.video.pool.STUCK_SECONDS", 0.2)
    pool = DecodePool(1)
    before = set(psutil.Process().children(recursive=True))
    future = pool.run("clip.mp4", planted.process)
    until(lambda: set(psutil.Process().children(recursive=True)) > before)
    future._condition.acquire()
    try:
        pool.close(wait=False)
        until(lambda: set(psutil.Process().children(recursive=True)) <= before)
    finally:
        future._condition.release()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("decode-")])


def test_a_closed_pool_says_so_and_may_be_closed_again() -> None:
    pool = DecodePool(1)
    pool.close()
    pool.close()
    with pytest.raises(UsageError, match=r"clip\.mp4: this DecodePool is closed"):
        pool.run("clip.mp4", planted.process)


def test_a_future_is_cancelled_before_it_starts(pool: DecodePool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    running = pool.run("clip.mp4", planted.wait_for, str(mark))
    waiting = pool.run("clip.mp4", planted.double, 1)
    until(running.running)
    assert waiting.cancel()
    mark.touch()
    assert pool.run("clip.mp4", planted.double, 21).result() == 42
    assert running.result() == str(mark)


def test_a_pool_nobody_holds_finishes_its_work_and_ends_its_workers() -> None:
    futures = [DecodePool(1).run("clip.mp4", planted.double, number) for number in range(2)]
    gc.collect()
    assert [future.result() for future in futures] == [0, 2]
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("decode-")])


# The process that holds the pool


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def start_program(text: str) -> subprocess.Popen[str]:
    program = "from tests.video import planted\nfrom videoflamingo.video.pool import DecodePool\n" + textwrap.dedent(
        text
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def read_pid(mark: Path) -> int:
    until(lambda: mark.exists() and mark.read_text() != "")
    return int(mark.read_text())


@pytest.mark.parametrize("end", ["pass", "1 / 0", "import sys; sys.exit(3)"])
def test_a_program_that_ends_with_an_open_pool_leaves_no_worker_and_does_not_hang(end: str, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = start_program(
        f"""
        pool = DecodePool(2)
        idle = pool.run("clip.mp4", planted.process).result()
        busy = pool.run("clip.mp4", planted.spin_with_the_lock, {str(mark)!r})
        planted.wait_for({str(mark)!r})
        print(idle, flush=True)
        {end}
        """
    )
    output, errors = program.communicate(timeout=120)
    until(lambda: has_ended(int(output)) and has_ended(read_pid(mark)))
    assert "decode-" not in errors  # no thread died of it


def test_a_killed_program_leaves_no_worker_neither_idle_nor_spinning_with_the_lock(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = start_program(
        f"""
        pool = DecodePool(2)
        idle = pool.run("clip.mp4", planted.process).result()
        busy = pool.run("clip.mp4", planted.spin_with_the_lock, {str(mark)!r})
        print(idle, flush=True)
        busy.result()
        """
    )
    assert program.stdout is not None
    idle, busy = int(program.stdout.readline()), read_pid(mark)
    assert not has_ended(busy)
    program.kill()
    program.communicate()
    until(lambda: has_ended(idle) and has_ended(busy))


def test_the_kernel_ends_a_spinning_worker_when_the_program_is_stopped(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = start_program(
        f"""
        with DecodePool(1, deadline_seconds=2) as pool:
            print(pool.run("clip.mp4", planted.spin_with_the_lock, {str(mark)!r}).exception())
        """
    )
    busy = read_pid(mark)
    program.send_signal(signal.SIGSTOP)
    until(lambda: has_ended(busy))
    program.send_signal(signal.SIGCONT)
    output, _ = program.communicate(timeout=120)
    assert output.startswith("clip.mp4: not read within 2 s, so its decoding process was killed")


def test_a_forked_process_is_told_to_make_its_own_pool(pool: DecodePool) -> None:
    pid = pool.run("first.mp4", planted.process).result()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pool.run("clip.mp4", planted.process)
        except UsageError as error:
            os.write(writing, str(error).encode())
        finally:
            pool.close()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert "cannot be used here; make the pool in the process that uses it" in said.read()
    os.waitpid(child, 0)
    assert pool.run("next.mp4", planted.process).result() == pid


def test_an_idle_worker_ends_with_its_program_although_a_forked_process_lives_on() -> None:
    program = start_program(
        """
        import os, time
        pool = DecodePool(1)
        idle = pool.run("clip.mp4", planted.process).result()
        child = os.fork()
        if child == 0:
            time.sleep(3600)
        print(idle, child, flush=True)
        time.sleep(3600)
        """
    )
    assert program.stdout is not None
    idle, child = (int(word) for word in program.stdout.readline().split())
    program.kill()
    try:
        until(lambda: has_ended(idle))
        assert not has_ended(child)
    finally:
        os.kill(child, signal.SIGKILL)
        program.communicate()


# Clips


@pytest.mark.parametrize("method", ["uniform", "random"])
def test_a_clip_is_the_one_that_is_read_in_this_process(encode: Encode, pool: DecodePool, method: str) -> None:
    path, sampling = encode("h264.mp4"), Sampling(method, 5)  # type: ignore[arg-type]
    seed = 7 if method == "random" else None
    there, here = pool.read(path, sampling, seed=seed).result(), in_this_process(path, sampling, seed)
    np.testing.assert_array_equal(there.frames, here.frames)
    assert there.pts_seconds.tolist() == here.pts_seconds.tolist()
    assert (there.source, there.reader, there.reader_reason) == (here.source, here.reader, here.reader_reason)


def test_bytes_and_open_files_are_read(encode: Encode, pool: DecodePool) -> None:
    path = Path(encode("h264.mp4"))
    from_path = pool.read(path, Sampling(num_frames=3)).result()
    from_bytes = pool.read(path.read_bytes(), Sampling(num_frames=3)).result()
    with path.open("rb") as file:
        from_file = pool.read(file, Sampling(num_frames=3)).result()
    np.testing.assert_array_equal(from_path.frames, from_bytes.frames)
    np.testing.assert_array_equal(from_path.frames, from_file.frames)


def test_chosen_frames_and_turned_frames_arrive_as_they_are(encode: Encode, pool: DecodePool) -> None:
    short = encode("three_frames.mp4", num_frames=3)
    turned = encode("turned.mp4", rotation=90)
    for path, sampling in ((short, Sampling(num_frames=8, short="distinct")), (turned, Sampling(num_frames=4))):
        there, here = pool.read(path, sampling).result(), in_this_process(path, sampling)
        np.testing.assert_array_equal(there.frames, here.frames)


def test_the_options_reach_the_reader(encode: Encode, pool: DecodePool) -> None:
    clip = pool.read(encode("h264.mp4"), Sampling(num_frames=2), ReadOptions(short_side=48)).result()
    assert clip.frames.shape == (2, 3, 48, 64)


def test_an_unreadable_file_gives_the_error_of_its_reader(tmp_path: Path, pool: DecodePool) -> None:
    with pytest.raises(VideoError, match=r"none\.mp4: no such file; check the path"):
        pool.read(tmp_path / "none.mp4", Sampling()).result()


def test_frames_larger_than_the_limit_are_refused_before_they_take_memory(encode: Encode) -> None:
    with DecodePool(1, memory_limit_bytes=256 * MEBIBYTE) as pool:
        pid = pool.run("first.mp4", planted.process).result()
        with pytest.raises(
            VideoError, match=r"h264\.mp4: 10000 frames of 128x96 need 352 MiB, more than the 256 MiB .* short_side"
        ):
            pool.read(encode("h264.mp4"), Sampling(num_frames=10_000)).result()
        assert pool.run("next.mp4", planted.process).result() == pid


def bottom(array: object) -> object:
    while isinstance(array, np.ndarray | memoryview):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return array


def test_frames_are_the_mapped_file_and_may_be_written_to(encode: Encode, pool: DecodePool) -> None:
    first, second = (pool.read(encode("h264.mp4"), Sampling(num_frames=2)).result() for _ in range(2))
    assert type(bottom(first.frames)).__name__ == "MappedFile"
    before = second.frames.copy()
    first.frames[:] = 7
    assert (first.frames == 7).all()
    np.testing.assert_array_equal(second.frames, before)


def test_clips_that_are_held_keep_no_descriptor_open(encode: Encode, pool: DecodePool) -> None:
    path = encode("h264.mp4")
    clips = [pool.read(path, Sampling(num_frames=1)).result()]
    before = len(os.listdir("/proc/self/fd"))
    clips += [pool.read(path, Sampling(num_frames=1)).result() for _ in range(200)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(clips) == 201


def test_memory_of_dropped_clips_is_given_back(encode: Encode, pool: DecodePool) -> None:
    path, sampling = encode("h264.mp4"), Sampling(num_frames=20)
    num_bytes = 0
    for number in range(320):
        clip = pool.read(path, sampling).result()
        num_bytes += int(clip.frames.sum(dtype=np.int64) > 0) * clip.frames.nbytes  # every page is read
        if number == 20:
            before = psutil.Process().memory_info().rss
    assert num_bytes > 200 * MEBIBYTE
    assert psutil.Process().memory_info().rss - before < 20 * MEBIBYTE


def files_seen(clips: list[Clip]) -> set[str]:
    """The frame files behind clips, by their inode; a file that is used again is the same one."""
    places = {clip.frames.__array_interface__["data"][0] for clip in clips}
    return {
        inode
        for line in Path("/proc/self/maps").read_text().splitlines()
        for span, _, _, _, inode, *_ in [line.split()]
        if any(int(span.split("-")[0], 16) <= place < int(span.split("-")[1], 16) for place in places)
    }


def file_of(clip: Clip) -> str:
    (inode,) = files_seen([clip])
    return inode


def test_the_memory_of_a_dropped_clip_is_used_for_the_next_ones(encode: Encode, pool: DecodePool) -> None:
    path, sampling = encode("h264.mp4"), Sampling(num_frames=4)
    used = [file_of(pool.read(path, sampling).result()) for _ in range(40)]
    assert len(set(used)) <= 3


def test_clips_that_are_held_stay_as_they_are_also_after_their_worker_was_killed(encode: Encode) -> None:
    path = encode("h264.mp4")
    samplings = [Sampling(num_frames=1 + number % 7) for number in range(20)]
    with DecodePool(1) as pool:
        held = []
        for sampling in samplings:
            held.append(pool.read(path, sampling).result())
            pool.read(path, replace(sampling, start_seconds=2.0)).result()  # dropped, so that files are used again
        assert len(files_seen(held)) == len(held)
        assert "died" in message_of(pool.run("clip.mp4", planted.die, signal.SIGSEGV))
        after = [pool.read(path, sampling).result() for sampling in samplings]
        assert len(files_seen(held + after)) == 2 * len(held)
    for sampling, before_kill, after_kill in zip(samplings, held, after, strict=True):
        expected = in_this_process(path, sampling).frames
        np.testing.assert_array_equal(before_kill.frames, expected)
        np.testing.assert_array_equal(after_kill.frames, expected)


def test_memory_is_not_used_again_while_only_a_tensor_or_a_part_refers_to_it(encode: Encode, pool: DecodePool) -> None:
    torch = pytest.importorskip("torch")
    path, sampling, other = encode("h264.mp4"), Sampling(num_frames=4), Sampling(num_frames=4, start_seconds=2.0)
    expected = in_this_process(path, sampling).frames
    tensor = torch.from_numpy(pool.read(path, sampling).result().frames)
    part = pool.read(path, sampling).result().frames[1, :, ::2]
    view = memoryview(pool.read(path, sampling).result().frames)
    gc.collect()
    for _ in range(10):
        pool.read(path, other).result()
    np.testing.assert_array_equal(tensor.numpy(), expected)
    np.testing.assert_array_equal(part, expected[1, :, ::2])
    np.testing.assert_array_equal(np.asarray(view), expected)


def test_what_was_written_to_a_clip_is_not_in_the_next_one(encode: Encode, pool: DecodePool) -> None:
    path, sampling = encode("h264.mp4"), Sampling(num_frames=4)
    expected = in_this_process(path, sampling).frames
    for _ in range(10):
        clip = pool.read(path, sampling).result()
        np.testing.assert_array_equal(clip.frames, expected)
        clip.frames[:] = 7


def test_a_clip_that_a_forked_process_holds_stays_as_it_is_there(encode: Encode, pool: DecodePool) -> None:
    path, sampling, other = encode("h264.mp4"), Sampling(num_frames=4), Sampling(num_frames=4, start_seconds=2.0)
    clip = pool.read(path, sampling).result()
    expected, inode = clip.frames.copy(), file_of(clip)
    begin, proceed = os.pipe()
    child = os.fork()
    if child == 0:
        code = 2
        try:
            os.read(begin, 1)
            code = 0 if np.array_equal(clip.frames, expected) else 1
        finally:
            os._exit(code)
    clip.frames[:] = 0  # seen by this process alone
    del clip
    used = set()
    for _ in range(10):
        later = pool.read(path, other).result()
        assert not np.array_equal(later.frames, expected)
        used.add(file_of(later))
    os.write(proceed, b".")
    _, status = os.waitpid(child, 0)
    os.close(begin)
    os.close(proceed)
    assert os.waitstatus_to_exitcode(status) == 0
    assert inode not in used
    assert len(used) <= 3  # those mapped after the fork are used again


def test_memory_stays_the_same_over_hundreds_of_clips_of_changing_sizes(encode: Encode, pool: DecodePool) -> None:
    path = encode("h264.mp4")
    sizes = [int(number) for number in np.random.default_rng(0).integers(1, 200, 320)]  # 37 KB to 7 MB a clip
    num_bytes, before = 0, (0, 0)
    for number, num_frames in enumerate(sizes):
        clip = pool.read(path, Sampling(num_frames=num_frames)).result()
        num_bytes += int(clip.frames.sum(dtype=np.int64) > 0) * clip.frames.nbytes  # every page is read
        here, (there, num_files) = psutil.Process().memory_info().rss, worker_state(pool)
        assert num_files <= 4
        if number == 60:
            before = here, there
    assert num_bytes > 1000 * MEBIBYTE
    assert here - before[0] < 20 * MEBIBYTE
    assert there - before[1] < 20 * MEBIBYTE


def test_a_worker_keeps_little_memory_when_many_clips_or_a_large_one_are_given_back(encode: Encode) -> None:
    path = encode("h264.mp4")
    with DecodePool(1, memory_limit_bytes=512 * MEBIBYTE) as pool:
        clips = [pool.read(path, Sampling(num_frames=200)).result() for _ in range(20)]
        assert worker_state(pool)[1] <= 4
        clips.clear()
        pool.read(path, Sampling(num_frames=200)).result()
        assert worker_state(pool)[1] <= 3
        before = worker_state(pool)[0]
        pool.read(path, Sampling(num_frames=3000)).result()  # 105 MiB, more than an eighth of the limit
        assert worker_state(pool)[0] - before < 20 * MEBIBYTE


def worker_state(pool: DecodePool) -> tuple[int, int]:
    return pool.run("state", planted.resident_bytes_and_frame_files).result()


def test_frames_outlive_the_pool(encode: Encode) -> None:
    path, sampling = encode("h264.mp4"), Sampling(num_frames=3)
    with DecodePool(1) as pool:
        clip = pool.read(path, sampling).result()
    np.testing.assert_array_equal(clip.frames, in_this_process(path, sampling).frames)
