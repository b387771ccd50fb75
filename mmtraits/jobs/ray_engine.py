"""A callable over many items on a Ray cluster: Ray Data starts one per core, and starts it anew where it dies.

Without RAY_ADDRESS a cluster of this machine's cores is started and ended again; no dashboard, no statistics. On a
cluster every machine needs this package, and the files under the same paths.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmtraits.errors import ConfigError, MMTraitsError

_STORE_BYTES = 256 << 20  # of a cluster started here: what travels is paths and rows
_ROW = "row"


Answer = Callable[[Any], Any]


def spread(
    make: Callable[..., Answer], arguments: tuple[Any, ...], items: Sequence[Any], *, cores: int, gpus: int
) -> Iterator[Any]:
    """`make(*arguments)(item)` for each item, as the answers come, in any order; everything must pickle.

    make: a class of an importable module; each of its instances gets one core and `gpus`. cores: of this machine, where
    no cluster is named. Raises ConfigError where Ray is not installed, MMTraitsError for what an instance raised.
    """
    if not items:
        return
    with _cluster(cores) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{_ROW: pickle.dumps(item)} for item in items]
        most = max(1, min(len(items), int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))))
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Instance,
            fn_constructor_args=(make, arguments),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=1,
            num_gpus=gpus,
        )
        try:
            for row in answers.iter_rows():
                yield pickle.loads(row[_ROW])  # noqa: S301  (from our own workers)
        except ray.exceptions.RayError as error:
            said = [line for line in str(error).splitlines() if line.strip()]
            raise MMTraitsError(f"ray: {said[-1].strip()}") from error


class _Instance:
    """What Ray calls: bytes in and out, so that Arrow need not understand them."""

    def __init__(self, make: Callable[..., Answer], arguments: tuple[Any, ...]) -> None:
        self._answer = make(*arguments)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        return {_ROW: pickle.dumps(self._answer(pickle.loads(row[_ROW])))}  # noqa: S301  (from our own driver)


@contextmanager
def _cluster(cores: int) -> Iterator[Any]:
    """Ray, connected to the cluster that is there or to one of this machine alone."""
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_BACKEND_LOG_LEVEL", "fatal")):
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"--engine ray: {error}; pip install 'mmtraits[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it prints tracebacks; the error says what is wrong
    ours = not ray.is_initialized()
    if ours:
        alone = not os.environ.get("RAY_ADDRESS")
        own: dict[str, Any] = {"num_cpus": cores, "object_store_memory": _STORE_BYTES} if alone else {}
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **own)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()
