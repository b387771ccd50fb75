"""The supervisor: a thread that starts workers, hands them clips, takes their windows, and replaces those that die."""

from __future__ import annotations

import heapq
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from mmtraits.errors import BundleError, ConfigError, MMTraitsError
from mmtraits.media.assemble import Window
from mmtraits.media.load import Ending
from mmtraits.workers.job import Task, failure
from mmtraits.workers.parcel import receive_ending, receive_window
from mmtraits.workers.process import Worker, told

log = logging.getLogger(__name__)
_TICK_S = 0.5
_CREDIT = 2  # windows that a worker may send before it hears again: one being made, one to go on with
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # from outside: by the memory killer, by an operator
_CRASHES, _KILLS, _FALSE_STARTS = 2, 6, 5
_ERRORS = {"BundleError": BundleError, "ConfigError": ConfigError}
_START_S = 300.0  # importing takes this long only where something is badly wrong


class Pool:
    """Workers under supervision. `put` and `items` belong to one thread; everything else happens in the pool's own.

    room: windows that may be made and not yet taken. The clip whose turn it is can always go on.
    """

    def __init__(self, workers: int, room: int, memory_mb: int, patience_s: float) -> None:
        self.size, self.room, self.memory_mb, self.patience_s = workers, room, memory_mb, patience_s
        self._workers: list[Worker] = []
        self._waiting: list[Task] = []
        self._made = 0  # windows in the items of all tasks
        self._turn = 0  # number of the task whose items are being taken
        self._useful = max(2, _cores())  # workers; more where those wait
        self._reckoned = time.monotonic()
        self._false_starts = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._ear, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        self._thread = threading.Thread(target=self._run, name="mmtraits workers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._ring()
        self._thread.join()
        os.close(self._ear)
        os.close(self._bell)

    def put(self, task: Task) -> Task:
        """Take a task on, to be worked on after those before it."""
        with self._changed:
            heapq.heappush(self._waiting, task)
        self._ring()
        return task

    def items(self, task: Task) -> Iterator[Window | Ending]:
        """The windows of a task and its ending, as they come."""
        self._turn = task.number
        self._ring()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: task.items or self._error)
                if not task.items:
                    assert self._error is not None
                    raise self._error
                item = task.items.popleft()
                self._made -= isinstance(item, Window)
            self._ring()
            yield item
            if isinstance(item, Ending):
                return

    def _ring(self) -> None:
        try:
            os.write(self._bell, b"!")
        except BlockingIOError:
            return  # it is ringing already

    # ------------------------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._distribute()
                self._listen()
                self._look_after()
        except BaseException as error:  # whatever it is, it must reach the one who waits for windows
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            for worker in self._workers:
                worker.end()

    def _distribute(self) -> None:
        """Start workers, give idle ones the first of the waiting tasks, and busy ones credit for further windows."""
        with self._changed:
            busy = sum(worker.task is not None for worker in self._workers)
            wanted = min(self.size, busy + len(self._waiting))
        for _ in range(min(wanted, self._useful) - len(self._workers)):
            self._start()
        with self._changed:
            working = [(worker.task, worker) for worker in self._workers if worker.task is not None]
            for task, worker in sorted(working, key=lambda pair: pair[0]):
                while worker.credit < _CREDIT and self._has_room(task):
                    worker.grant()
            for worker in self._workers:
                if self._waiting and worker.idle and self._has_room(self._waiting[0]):
                    worker.give(heapq.heappop(self._waiting), self.patience_s, self.memory_mb)

    def _start(self) -> None:
        try:
            self._workers.append(Worker.start())
        except OSError as error:  # no memory, or too many processes
            if not self._workers:
                raise MMTraitsError(f"workers: no process can be started ({error.strerror}); use workers=0") from error
            log.debug("one worker less: %s", error)

    def _has_room(self, task: Task) -> bool:
        if self._made + sum(worker.credit for worker in self._workers) < self.room:
            return True
        mine = sum(worker.credit for worker in self._workers if worker.task is task)
        return task.number == self._turn and not task.items and not mine

    def _listen(self) -> None:
        """Hear what the workers say, for a tick at most."""
        began = time.monotonic()
        speaking = wait([self._ear, *(worker.connection for worker in self._workers)], _TICK_S)
        if (late_s := time.monotonic() - began - _TICK_S) > _TICK_S:
            for worker in self._workers:  # this process was not running; nobody is blamed for that time
                worker.forgive(late_s)
        for worker in list(self._workers):
            if worker.connection in speaking:
                self._hear(worker)
        if self._ear in speaking:
            os.read(self._ear, 1 << 16)

    def _hear(self, worker: Worker) -> None:
        try:
            self._understand(worker, worker.receive())
        except (EOFError, ConnectionError):
            self._lost(worker, worker.end())
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            worker.end()
            self._lost(worker, None, f"it talked nonsense ({error})")

    def _understand(self, worker: Worker, facts: dict[str, Any]) -> None:
        kind = facts["kind"]
        if kind == "ready":
            self._false_starts = 0
            worker.begin()
        elif kind == "duration":
            worker.limit_s = max(self.patience_s, 4 * float(facts["seconds"]))
        elif kind == "window":
            window = receive_window(worker.connection, facts)
            worker.spend()
            worker.limit_s = max(worker.limit_s, 4 * window.end_s)  # from a cache: nobody has told a duration
            self._deliver(worker, window)
        elif kind == "ending":
            ending = receive_ending(facts)
            self._deliver(worker, ending)
            if "out_of_memory" in ending.reasons:
                self._drop(worker)  # its memory is in pieces
        elif kind == "error":
            raise _ERRORS.get(facts["type"], MMTraitsError)(facts["text"])
        else:
            raise ValueError(f"message {kind!r}")

    def _deliver(self, worker: Worker, item: Window | Ending) -> None:
        task = worker.task
        if task is None:
            raise ValueError("a window without a task")
        if isinstance(item, Ending):
            worker.finish()
        self._append(task, item)

    def _append(self, task: Task, item: Window | Ending) -> None:
        with self._changed:
            task.items.append(item)
            if isinstance(item, Window):
                task.delivered += 1
                self._made += 1
            self._changed.notify_all()

    def _look_after(self) -> None:
        """Kill the workers whose time is up, which are replaced where they are needed."""
        if time.monotonic() - self._reckoned > _TICK_S:
            self._reckoned = time.monotonic()
            self._reckon()
        for worker in list(self._workers):
            task = worker.task
            if task is not None and worker.busy_s > worker.limit_s:
                log.info("%s: given up after %.0f s", task.job.clip.id, worker.busy_s)
                self._drop(worker)
                self._append(task, failure("timeout", f"not decoded in {worker.limit_s:.0f} s"))
            elif not worker.ready and worker.age_s > _START_S:
                worker.end()
                self._lost(worker, None, f"it is not there after {_START_S:.0f} s")

    def _reckon(self) -> None:
        """Allow one worker more where most of those there are wait: beyond the cores it gains nothing otherwise."""
        if len(self._workers) == self._useful and 2 * sum(worker.waits for worker in self._workers) > self._useful:
            self._useful = min(self._useful + 1, self.size)

    def _drop(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.end()

    def _lost(self, worker: Worker, code: int | None, how: str = "") -> None:
        """A worker has ended: its task is tried again or given up. code: None where it was ended here."""
        self._workers.remove(worker)
        killed, how = code in _KILLED, how or told(code or 0)
        if not worker.ready and not killed:
            self._false_starts += 1
            if self._false_starts >= _FALSE_STARTS:
                raise MMTraitsError(f"workers: a decoding process cannot start ({how}); mend that, or use workers=0")
        task = worker.task
        if task is None:
            return
        log.debug("%s: its worker ended: %s", task.job.clip.id, how)
        task.kills += killed
        task.crashes += not killed
        if task.kills >= _KILLS:
            self._append(task, failure("out_of_memory", f"its worker was killed {task.kills} times"))
        elif task.crashes >= _CRASHES:
            self._append(task, failure("decoder_crash", f"its worker ended: {how}"))
        else:
            with self._changed:
                heapq.heappush(self._waiting, task)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
