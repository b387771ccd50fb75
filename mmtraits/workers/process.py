"""One worker process as its supervisor sees it: started, limited, timed and ended from outside."""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any, Self

from mmtraits.workers.job import Task, model_bytes
from mmtraits.workers.parcel import receive

log = logging.getLogger(__name__)
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mmtraits.workers.child import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)
# Workers share the cores between them; a library that starts a thread for each would have them fight.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)
_WORD_S = 10  # within which a message that has begun must have come


class Worker:
    """A process, its socket, and the task it has. Times are seconds."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.task: Task | None = None
        self.ready = False
        self.credit = 0
        self.limit_s = 0.0
        self._own_bytes: int | None = None
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
        return cls(process, _limited_in_time(here))

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

    @property
    def waits(self) -> bool:
        """Whether it has work and needs no core now, as one that reads from a slow disk; True where that is unknown."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return sys.platform != "linux"
        return self.task is not None and self.credit > 0 and state != "R"

    def begin(self) -> None:
        """It is ready: what it has now does not count against it."""
        self.ready = True
        if self._own_bytes is None and (known := Path(f"/proc/{self.pid}/statm")).exists():
            self._own_bytes = int(known.read_text().split()[0]) * resource.getpagesize()

    def receive(self) -> dict[str, Any]:
        """What it says next; raises as `parcel.receive`."""
        return receive(self.connection)

    def give(self, task: Task, limit_s: float, memory_mb: int) -> None:
        """Have it work on a task from where that has come to, with credit for one window."""
        self.task, self.limit_s, self.credit = task, limit_s, 1
        self._busy_s, self._busy_since = 0.0, time.monotonic()
        self._limit((memory_mb << 20) + model_bytes(task.job.speech_to_text))
        self._tell(pickle.dumps((task.job._replace(features={}), task.delivered, 1)))

    def _limit(self, more_bytes: int) -> None:
        """Let it ask for so much more address space than it had at its start; from outside, where a system can."""
        if self._own_bytes is None or not hasattr(resource, "prlimit"):
            return
        try:
            _, most = resource.prlimit(self.pid, resource.RLIMIT_AS)
            wanted = self._own_bytes + more_bytes
            soft = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.prlimit(self.pid, resource.RLIMIT_AS, (soft, most))
            resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))
        except OSError as error:  # it has just died, or this system forbids it
            log.debug("worker %s: no limit of memory: %s", self.pid, error)

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

    def end(self) -> int:
        """Kill it, where it has not ended already; its exit code."""
        self.process.kill()
        self.connection.close()
        try:
            return self.process.wait(_WORD_S)
        except subprocess.TimeoutExpired:  # in the middle of a read from a disk that does not answer
            log.warning("worker %s cannot be ended; left to the system", self.pid)
            return -signal.SIGKILL

    def _tell(self, message: bytes) -> None:
        try:
            self.connection.send_bytes(message)
        except OSError:  # it has died, or takes nothing any more; its closed socket will say so
            self.process.kill()


def _limited_in_time(connection: Connection) -> Connection:
    """A process that stops in the middle of a message must not stop its supervisor."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            same.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", _WORD_S, 0))
    return connection


def told(code: int) -> str:
    """An exit code in words."""
    return f"exit code {code}" if code >= 0 else signal.strsignal(-code) or f"signal {-code}"
