"""Units written while the next ones are computed."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ..store.layout import WorkUnit
from ..store.store import Store
from .microbatch import Block


class Behind:
    """Writes units in a thread of its own, in turn, while the next ones are computed; leaving it waits for all."""

    def __init__(self, run: Store):
        self.run, self._pool = run, ThreadPoolExecutor(1)
        self._waiting = deque[tuple[WorkUnit, Future | None]]()

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def put(self, unit: WorkUnit, values: Block | None = None) -> None:
        """A unit that is settled, and what was measured in it."""
        writing = None if values is None else self._pool.submit(self.run.write, unit, values)
        self._waiting.append((unit, writing))

    def wait(self) -> None:
        """Until what was given is on disk, or could not be written."""
        wait([writing for _, writing in self._waiting if writing is not None])

    def written(self, but: int = 0) -> Iterator[WorkUnit]:
        """Those that are on disk, in turn, but for the last ones; waits for them.

        Raises:
            StorageError: If one could not be written.
        """
        while len(self._waiting) > but:
            unit, writing = self._waiting.popleft()
            if writing is not None:
                writing.result()
            yield unit
