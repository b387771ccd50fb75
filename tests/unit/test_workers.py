"""Decoding in processes: the same windows in the same order, whatever happens to the processes."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import av
import clock
import numpy as np
import pytest

from mmtraits.errors import ConfigError, MMTraitsError
from mmtraits.media.load import Ending, Window
from mmtraits.schema import Clip, FrameSpec, InputSpec, TextSpec, VectorSpec, WaveSpec, Windowing
from mmtraits.workers import Job, decode, process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")

SPECS: Mapping[str, InputSpec] = {
    "scene": FrameSpec(frames=4, height_px=48, width_px=64, crop="full"),
    "voice": WaveSpec(sample_rate=16000),
}
WINDOWING = Windowing(length_s=2.0, hop_s=2.0)
Items = list[tuple[int, Window | Ending]]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for seconds in (1, 6, 40):
        clock.write(folder / f"{seconds}.mp4", seconds=seconds, fps=10, size=(64, 48))
    return folder


def job(path: Path | Fault, **options: Any) -> Job:
    return Job(Clip(id="x", video=path), SPECS, WINDOWING, **options)


class Fault:
    """A path that has the process which unpickles it, a worker, run some code."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (self.code,)


def summary(items: Sequence[tuple[int, Window | Ending]]) -> list[Any]:
    """What must not depend on processes. A wave is not summed in the same order by any number of threads."""
    return [
        (n, item.reasons)
        if isinstance(item, Ending)
        else (
            n,
            item.start_s,
            item.streams["scene"].data.tobytes(),
            round(float(np.abs(item.streams["voice"].data).mean()), 5),
        )
        for n, item in items
    ]


def reasons(items: Items) -> dict[int, tuple[str, ...]]:
    """By job; asserts that each ends exactly once, in order."""
    endings = [(n, item.reasons) for n, item in items if isinstance(item, Ending)]
    assert [n for n, _ in items] == sorted(n for n, _ in items)
    assert len(dict(endings)) == len(endings)
    return dict(endings)


def children(pid: int | None = None) -> list[int]:
    """Process ids of the workers of a process that have not ended."""
    found = []
    for tasks in Path(f"/proc/{pid or os.getpid()}/task").glob("*/children"):
        found += [int(child) for child in tasks.read_text().split() if is_worker(int(child))]
    return found


def is_worker(pid: int) -> bool:
    try:
        return b"mmtraits.workers.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def within(seconds: float, condition: Any) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


# ---------------------------------------------------------------------------------------------------- the contract


def test_any_number_of_workers_gives_the_same(media: Path) -> None:
    files = ["6.mp4", "1.mp4", "none.mp4", "40.mp4", "1.mp4", "6.mp4"]
    here, one, three = (list(decode([job(media / name) for name in files], workers)) for workers in (0, 1, 3))
    assert summary(one) == summary(three) == summary(here)
    assert reasons(here)[2] == ("unreadable_container", "no_face", "no_sound")
    assert [item.start_s for n, item in here if n == 3 and isinstance(item, Window)] == [2.0 * k for k in range(20)]
    assert not children()


def test_arrays_come_as_they_were(media: Path) -> None:
    (_, here), *_ = decode([job(media / "1.mp4")])
    (_, there), *_ = decode([job(media / "1.mp4")], 1)
    assert isinstance(here, Window) and isinstance(there, Window)
    assert list(there.streams) == list(SPECS)
    for name, raw in there.streams.items():
        assert (raw.data.dtype, raw.data.shape) == (here.streams[name].data.dtype, here.streams[name].data.shape)
        assert raw.mask.dtype == np.bool_
        np.testing.assert_array_equal(raw.mask, here.streams[name].mask)
        np.testing.assert_allclose(raw.data, here.streams[name].data, atol=1e-6)
    there.streams["scene"].data[:] = 7  # private: nobody else sees it


def test_jobs_are_taken_as_they_are_needed(media: Path) -> None:
    taken = 0

    def jobs() -> Iterator[Job]:
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield job(media / "1.mp4")

    items = decode(jobs(), 2, ahead=2)
    assert next(items)[0] == 0
    assert taken <= 8
    items.close()
    assert not children()


def test_windows_wait_until_they_are_wanted(media: Path) -> None:
    """Not more than `ahead` windows lie in memory, and the clip whose turn it is can still go on."""
    items = decode([job(media / "40.mp4"), job(media / "40.mp4")], 2, ahead=3)
    first = next(items)
    time.sleep(1.0)
    maps = Path("/proc/self/maps").read_text()
    assert maps.count("mmtraits-window") <= 3 + 1
    rest = [first, *items]
    assert len(rest) == 2 * 21
    assert reasons(rest) == {0: (), 1: ()}


def test_nothing_is_left_behind(media: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _, _ in decode([job(media / "6.mp4")] * 3, 2):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert "mmtraits-window" not in Path("/proc/self/maps").read_text()
    assert not children()


def test_many_windows_can_be_kept(media: Path) -> None:
    """Each mapping holds a file descriptor, of which a process has 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
    try:
        kept = list(decode([job(media / "40.mp4")] * 20, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sum(isinstance(item, Window) for _, item in kept) == 400
    assert len({name for _, name, *_ in summary(kept) if isinstance(name, float)}) == 20


def test_vectors_are_added(media: Path) -> None:
    specs = {**SPECS, "emotion": VectorSpec(width=2)}
    given = {"emotion": np.array([[1, 2], [3, 4]], np.float32)}
    jobs = [
        Job(Clip(id="a", video=media / "6.mp4"), specs, WINDOWING, features=given),
        Job(Clip(id="b"), specs, WINDOWING, features=given),
        Job(Clip(id="c"), specs, WINDOWING),
    ]
    for workers in (0, 1):
        items = list(decode(jobs, workers))
        assert [n for n, item in items if isinstance(item, Window)] == [0, 0, 0, 1]
        for _, item in items:
            if isinstance(item, Window):
                assert list(item.streams) == list(specs)
                assert item.streams["emotion"].data.tolist() == [[1, 2], [3, 4]]
                assert item.streams["emotion"].mask.all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_bundle_is_raised(tmp_path: Path, workers: int) -> None:
    wrong = Job(Clip(id="a", text="x"), {"text": TextSpec(tokenizer="none.json")}, WINDOWING, root=tmp_path)
    with pytest.raises(ConfigError, match=r"none\.json: there is nothing at"):
        list(decode([wrong], workers))
    assert not children()


def test_a_script_needs_no_main_guard(media: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom mmtraits.workers import Job, decode\nfrom mmtraits.schema import *\n"
        f"clip = Clip(id='a', video=Path({str(media / '1.mp4')!r}))\n"
        "job = Job(clip, {'v': WaveSpec(sample_rate=8000)}, Windowing())\n"
        "print([type(item).__name__ for _, item in decode([job], 1)])\n"
    )
    (tmp_path / "media" / "json.py").parent.mkdir()
    (tmp_path / "media" / "json.py").write_text("raise SystemExit('imported from the folder of the media')")
    done = subprocess.run([sys.executable, script], cwd=tmp_path / "media", capture_output=True, text=True, check=False)
    assert done.stdout == "['Window', 'Ending']\n", done.stderr


# ---------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(11)",
        "import os; os.abort()",
        "import ctypes; ctypes.string_at(0)",
        "import os; os._exit(0)",
    ],
)
def test_a_crash_costs_its_own_clip_and_is_tried_twice(media: Path, tmp_path: Path, code: str) -> None:
    bad = Fault(f"open({str(tmp_path / 'tries')!r}, 'a').write('x'); {code}")
    items = list(decode([job(media / "1.mp4"), job(bad), job(media / "6.mp4"), job(media / "1.mp4")], 2))
    assert reasons(items) == {0: (), 1: ("decoder_crash",), 2: (), 3: ()}
    assert (tmp_path / "tries").read_text() == "xx"


def test_a_process_that_is_killed_again_and_again_is_out_of_memory(media: Path, tmp_path: Path) -> None:
    bad = Fault(f"open({str(tmp_path / 'tries')!r}, 'a').write('x'); import os; os.kill(os.getpid(), 9)")
    items = list(decode([job(bad), job(media / "1.mp4")], 1))
    assert reasons(items) == {0: ("out_of_memory",), 1: ()}
    assert (tmp_path / "tries").read_text() == "xxxxxx"


@pytest.mark.parametrize("code", ["import time; time.sleep(3600)", "while True: pass"])
def test_a_hang_ends_at_its_deadline(media: Path, tmp_path: Path, code: str) -> None:
    bad = Fault(f"open({str(tmp_path / 'tries')!r}, 'a').write('x')\n{code}")
    items = decode([job(media / "1.mp4"), job(bad), job(media / "40.mp4"), job(media / "40.mp4")], 2, patience_s=2.0)
    found = []
    while not found or found[-1][0] < 3:
        found.append(next(items))
    assert len(children()) == 2
    assert reasons([*found, *items]) == {0: (), 1: ("timeout",), 2: (), 3: ()}
    assert (tmp_path / "tries").read_text() == "x"


@pytest.mark.slow
@pytest.mark.parametrize(("code", "more"), [("import time; time.sleep(3600)", 2), ("while True: pass", 0)])
def test_more_workers_than_cores_come_where_those_wait(code: str, more: int) -> None:
    cores = max(2, len(os.sched_getaffinity(0)))
    seen: list[int] = []
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.2):
            seen.append(len(children()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = list(decode([job(Fault(code))] * (cores + 2), cores + 2, patience_s=3.0))
    finally:
        stopped.set()
        watcher.join()
    assert set(reasons(found).values()) == {("timeout",)}
    assert max(seen) == cores + more


def test_waiting_for_the_reader_is_no_hang(media: Path) -> None:
    items = decode([job(media / "40.mp4")], 1, ahead=1, patience_s=0.5)
    found = [next(items)]
    time.sleep(1.5)  # 4 x 40 s are allowed; the first half second is before that is known
    assert reasons([*found, *items]) == {0: ()}


def test_memory_is_limited(media: Path) -> None:
    jobs = [job(Fault("held = bytearray(2 << 30)")), job(media / "1.mp4")]
    assert reasons(list(decode(jobs, 1, memory_mb=512))) == {0: ("out_of_memory",), 1: ()}


def test_a_picture_beyond_the_memory_costs_the_pictures(media: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 8000, 4000, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(8000, 4000, "yuvj420p")))
        container.mux(stream.encode())
    items = list(decode([job(path), job(media / "1.mp4")], 1, memory_mb=40))
    assert "out_of_memory" in reasons(items)[0]
    assert reasons(items)[1] == ()
    assert reasons(list(decode([job(path)], 1))) == {0: ("no_sound",)}


@pytest.mark.parametrize("message", [b"\xff" * 64, b"\0\0\0\2[]", b'\0\0\0\x12{"kind": "window"}'])
def test_a_worker_that_talks_nonsense_is_replaced(media: Path, message: bytes) -> None:
    bad = Fault(f"import os, sys, time; os.write(int(sys.argv[2]), {message!r}); time.sleep(60)")
    assert reasons(list(decode([job(bad), job(media / "1.mp4")], 1))) == {0: ("decoder_crash",), 1: ()}


def test_a_worker_that_stops_in_the_middle_of_a_word_is_replaced(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_WORD_S", 1)
    bad = Fault("import os, sys, time; os.write(int(sys.argv[2]), b'\\0\\0\\0\\4{'); time.sleep(600)")
    assert reasons(list(decode([job(bad), job(media / "1.mp4")], 1))) == {0: ("decoder_crash",), 1: ()}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_clip_goes_on_where_its_worker_died(media: Path, number: signal.Signals) -> None:
    expected = summary(list(decode([job(media / "40.mp4")])))
    items = decode([job(media / "40.mp4")], 1, ahead=2)
    found = [next(items) for _ in range(4)]
    for pid in children():
        os.kill(pid, number)
    assert summary([*found, *items]) == expected


def test_windows_from_before_a_second_crash_are_kept(media: Path) -> None:
    items = decode([job(media / "40.mp4"), job(media / "1.mp4")], 1, ahead=2)
    found = []
    for wanted in (3, 6):
        found += [next(items) for _ in range(wanted - len(found))]
        assert within(20, children)
        time.sleep(0.5)  # until it has the clip
        os.kill(children()[0], signal.SIGSEGV)
    found += items
    assert reasons(found) == {0: ("decoder_crash",), 1: ()}
    starts = [item.start_s for n, item in found if n == 0 and isinstance(item, Window)]
    assert starts == [2.0 * k for k in range(len(starts))]
    assert len(starts) >= 6


def test_no_worker_outlives_its_supervisor(media: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), str(Path(clock.__file__).parent)]!r}\n"
        "from test_workers import Fault, job\nfrom mmtraits.workers import decode\n"
        f"jobs = [job(Path({str(media / '1.mp4')!r})), job(Fault('while True: pass'))]\n"
        "for item in decode(jobs, 2):\n    print('!', flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"!\n"
    workers = children(parent.pid)
    assert len(workers) == 2
    parent.kill()
    parent.communicate()
    assert within(10, lambda: not any(is_worker(pid) for pid in workers))


def test_workers_that_cannot_start_are_told(media: Path) -> None:
    before = spawn.get_executable()
    spawn.set_executable("/bin/false")
    try:
        with pytest.raises(MMTraitsError, match=r"a decoding process cannot start \(exit code 1\)"):
            list(decode([job(media / "1.mp4")], 2))
    finally:
        spawn.set_executable(before)


@pytest.mark.slow
def test_chaos(media: Path) -> None:
    """For a minute a worker is killed every two seconds; no window is lost, doubled or out of place."""
    files = [media / "40.mp4", media / "1.mp4", media / "6.mp4"]
    expected = [summary(list(decode([job(path)]))) for path in files]
    end = time.monotonic() + 60
    stopped = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        chance = random.Random(0)
        while not stopped.wait(2.0):
            if pids := children():
                killed.append(chance.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)

    def jobs() -> Iterator[Job]:
        for number in range(1_000_000):
            if time.monotonic() > end:
                return
            yield job(files[number % 3])

    killer = threading.Thread(target=kill)
    killer.start()
    clips: dict[int, Items] = {}
    try:
        for number, item in decode(jobs(), 2):
            clips.setdefault(number, []).append((0, item))
    finally:
        stopped.set()
        killer.join()
    assert len(killed) >= 20
    assert list(clips) == list(range(len(clips)))
    assert len(clips) > 30
    for number, items in clips.items():
        assert summary(items) == expected[number % 3], number
