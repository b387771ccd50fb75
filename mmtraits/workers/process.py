"""One worker process as its supervisor sees it: started, limited, timed and ended from outside."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any, NamedTuple, Self

from mmtraits.workers.job import Task
from mmtraits.workers.parcel import receive

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mmtraits.workers.child import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)
# Workers share the cores between them; a library that starts a thread for each would have them fight.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)
_LAST_BREATH_S = 2.0
_KILLED = (signal.SIGKILL, signal.SIGTERM)


class End(NamedTuple):
    """How a process ended; killed: by a signal from outside."""

    killed: bool
    told: str


class Worker:
    """A process, its socket, and the task it has. Times are seconds."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.task: Task | None = None
        self.ready = False
        self.credit = 0
        self.limit_s = 0.0
        self._started = time.monotonic()
        self._busy_s = 0.0
        self._busy_since: float | None = None

    @classmethod
    def start(cls) -> Self:
        """Start an interpreter that does not import the caller's script, in a group of its own, which Ctrl-C spares."""
        here, there = Pipe()
        arguments = (json.dumps(sys.path), str(there.fileno()), str(os.getpid()))
        process = subprocess.Popen(  # noqa: S603  (ourselves)
            # -P: no module is taken from the folder in which it is started, which may be one of media
            [get_executable(), "-P", "-c", _PROGRAM, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[there.fileno()], process_group=0,
            env={**os.environ, **_ONE_THREAD},
        )  # fmt: skip
        there.close()
        return cls(process, here)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    @property
    def idle(self) -> bool:
        """Whether it waits for a task."""
        return self.ready and self.task is None

    @property
    def age_s(self) -> float:
        """Since its start."""
        return time.monotonic() - self._started

    @property
    def busy_s(self) -> float:
        """How long it has worked on its task, without the time in which it had no credit."""
        return self._busy_s + (0.0 if self._busy_since is None else time.monotonic() - self._busy_since)

    def begin(self, memory_mb: int) -> None:
        """It is ready: from now on it may use so much more memory than it has."""
        self.ready = True
        if not hasattr(resource, "prlimit") or not Path("/proc/self/statm").exists():
            return
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[0])
        wanted = pages * resource.getpagesize() + (memory_mb << 20)
        _, most = resource.prlimit(self.pid, resource.RLIMIT_AS)
        soft = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.prlimit(self.pid, resource.RLIMIT_AS, (soft, most))
        resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))

    def receive(self) -> dict[str, Any]:
        """What it says next; raises as `parcel.receive`."""
        return receive(self.connection)

    def give(self, task: Task, limit_s: float) -> None:
        """Have it work on a task from where that has come to, with credit for one window."""
        self.task, self.limit_s, self.credit = task, limit_s, 1
        self._busy_s, self._busy_since = 0.0, time.monotonic()
        self._tell(pickle.dumps((task.job._replace(features={}), task.delivered, 1)))

    def grant(self) -> None:
        """Let it send one window more."""
        self.credit += 1
        self._busy_since = self._busy_since or time.monotonic()
        self._tell(pickle.dumps(1))

    def spend(self) -> None:
        """It has sent a window."""
        self.credit -= 1
        if self.credit == 0:
            self._busy_s, self._busy_since = self.busy_s, None

    def finish(self) -> None:
        """It is done with its task."""
        self.task, self.credit, self._busy_since = None, 0, None

    def forgive(self, seconds: float) -> None:
        """Do not count a stretch of time."""
        self._started += seconds
        if self._busy_since is not None:
            self._busy_since = min(self._busy_since + seconds, time.monotonic())

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def ended(self) -> End:
        """How a process that has closed its socket ended; one that lives on is killed."""
        try:
            code: int | None = self.process.wait(_LAST_BREATH_S)
        except subprocess.TimeoutExpired:
            code = None
        self.end()
        return _told(code)

    def _tell(self, message: bytes) -> None:
        try:
            self.connection.send_bytes(message)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has died; its closed socket will say so


def _told(code: int | None) -> End:
    if code is None:
        return End(False, "it talked nonsense")
    if code >= 0:
        return End(False, f"exit code {code}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return End(-code in _KILLED, name)
