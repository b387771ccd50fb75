"""What runs in a worker: jobs from the supervisor one after the other, each to windows and an ending."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection

from mmtraits.errors import MMTraitsError
from mmtraits.media.load import Ending
from mmtraits.workers.job import Job, decode_one, failure
from mmtraits.workers.parcel import send, send_ending, send_window

_PR_SET_PDEATHSIG = 1


def serve(file: int, parent: int) -> None:
    """Decode what comes in over the socket with this descriptor until it is closed or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when its workers end
    _die_with(parent)
    connection = Connection(file)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # what native code prints when it dies is no one's to read
        os.dup2(nowhere.fileno(), 2)
    try:
        send(connection, "ready")
        while True:
            _serve_one(connection, connection.recv_bytes())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the supervisor has closed its side


def _serve_one(connection: Connection, message: bytes) -> None:
    try:
        order = pickle.loads(message)  # noqa: S301  (from the supervisor)
        if not isinstance(order, int):  # credit that comes after the end of its clip is void
            _decode(connection, *order)
    except MMTraitsError as error:
        send(connection, "error", type=type(error).__name__, text=str(error))
    except MemoryError as error:
        send_ending(connection, failure("out_of_memory", error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # the edge where a clip's fault must not become the worker's
        send_ending(connection, failure("decoder_crash", error))


def _decode(connection: Connection, job: Job, skip: int, credit: int) -> None:
    """Send the windows after the first `skip`; each uses up one credit, and more come as messages."""
    for item in decode_one(job, lambda duration_s: send(connection, "duration", seconds=duration_s)):
        if isinstance(item, Ending):
            send_ending(connection, item)
        elif skip:
            skip -= 1
        else:
            while credit == 0 or connection.poll():
                credit += int(connection.recv())
            send_window(connection, item)
            credit -= 1


def _die_with(parent: int) -> None:
    """Be killed when the process that started this one ends, however it ends; elsewhere its closed socket tells it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
