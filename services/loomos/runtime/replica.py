"""One model version being served: a worker kept alive, and the requests that wait for it.

1. One batch is under way at a time; what queued meanwhile goes together, whole requests in order,
   up to the rows that the model takes. Nothing waits for a batch to fill.
2. A dead worker fails the requests that it held, with a reason; a new one is started, after a
   pause that doubles with each death and is forgotten after a quiet minute, again and again.
3. The queue is bounded in requests and in bytes; a full one refuses at once.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from loom.kit import observe
from loom.kit.errors import Failure
from loomos.runtime import process
from loomos.runtime.process import Confinement, Process, WorkerGone

__all__ = ["Arrays", "Replica"]

Arrays = dict[str, np.ndarray]

QUEUE_REQUESTS_MAX = 1024
QUEUE_BYTES_MAX = 256 * 1024 * 1024
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.1, 30.0
QUIET_SECONDS = 60.0
FAILED_STARTS_MAX = 8
"""With the pauses between them about thirteen seconds: long enough for a store that comes late."""


@dataclass(slots=True)
class Waiting:
    """A request in the queue."""

    arrays: Arrays
    rows: int
    size_bytes: int
    answer: asyncio.Future[Arrays]


class Replica:
    """Serves one version until closed."""

    def __init__(
        self,
        name: str,
        plugin: str,
        files: Callable[[], AbstractContextManager[dict[str, int]]],
        confinement: Confinement,
    ) -> None:
        self.name = name
        self.plugin = plugin
        self.files = files
        self.confinement = confinement
        self.process: Process | None = None
        self.restarts = 0
        self._failed_starts, self._reason = 0, ""
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the first start succeeded or failed."""
        self._queue: deque[Waiting] = deque()
        self._queued_bytes = 0
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._log = observe.logger("replica").bind(model=name)
        self._task = asyncio.create_task(self._run(), name=f"replica {name}")

    @property
    def ready(self) -> bool:
        """True while a worker answers."""
        return self.process is not None

    @property
    def failure(self) -> str:
        """Why no worker can be started; empty while one runs or may soon."""
        return self._reason if self._failed_starts >= FAILED_STARTS_MAX else ""

    async def infer(self, arrays: Arrays) -> Arrays:
        """The outputs of one request; raises Failure."""
        worker = self.worker()
        rows = next(iter(arrays.values())).shape[0]
        if rows > worker.batch_rows_max:
            raise Failure(
                "INVALID_ARGUMENT",
                f"inputs[0].shape: {rows} rows: the model takes {worker.batch_rows_max} at once",
                "inputs[0].shape",
            )
        size = sum(array.nbytes for array in arrays.values())
        full = len(self._queue) >= QUEUE_REQUESTS_MAX
        if full or self._queued_bytes + size > QUEUE_BYTES_MAX:
            raise Failure(
                "RESOURCE_EXHAUSTED",
                f"{self.name} has {len(self._queue)} requests waiting: try again later",
            )
        waiting = Waiting(arrays, rows, size, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued_bytes += size
        self._idle.clear()
        self._arrived.set()
        return await waiting.answer

    def worker(self) -> Process:
        """The ready worker, whose model says what it takes; raises Failure while there is none."""
        if self.process is None:
            raise Failure(
                "UNAVAILABLE", f"{self.name} has no ready worker now: try again in a moment"
            )
        return self.process

    async def drained(self) -> None:
        """Returns when nothing waits and nothing is under way."""
        await self._idle.wait()

    async def close(self) -> None:
        """End the worker; what still waits fails."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self.first.done() and not self.first.cancelled():
            self.first.exception()

    async def _run(self) -> None:
        """Keep a worker alive."""
        loop = asyncio.get_running_loop()
        pause = PAUSE_SECONDS_MIN
        while True:
            began = loop.time()
            try:
                self.process = await self._start()
                self._failed_starts = 0
                if not self.first.done():
                    self.first.set_result(None)
                await self._serve(self.process)
            except (WorkerGone, Failure, OSError) as error:
                self._reason = str(error)
                self._failed_starts += self.process is None
                if not self.first.done():
                    self.first.set_exception(process.cannot_start(error))
                self.restarts += 1
            finally:
                await self._end()
            if loop.time() - began > QUIET_SECONDS:
                pause = PAUSE_SECONDS_MIN
            self._log.warning("worker gone", reason=self._reason, pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _start(self) -> Process:
        """A worker that holds verified files."""
        # Hashing a large artifact must not hold up the requests of other models.
        with contextlib.ExitStack() as stack:
            files = await asyncio.to_thread(stack.enter_context, self.files())
            return await process.start(self.plugin, files, self.confinement)

    async def _end(self) -> None:
        """Take leave of the worker and of all who wait for it."""
        worker, self.process = self.process, None
        for waiting in self._queue:
            refuse(waiting, self._lost("it was stopped"))
        self._queue.clear()
        self._queued_bytes = 0
        self._idle.set()
        if worker is not None:
            await asyncio.shield(worker.end())

    async def _serve(self, worker: Process) -> None:
        """Run batches until the worker is gone."""
        gone = asyncio.create_task(worker.child.wait())
        gone.add_done_callback(lambda _: self._arrived.set())
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while batch := self._batch(worker.batch_rows_max):
                    await self._answer(worker, batch)
                if gone.done():
                    raise WorkerGone(f"it ended with status {gone.result()}")
                self._idle.set()
        finally:
            gone.cancel()

    def _batch(self, rows_max: int) -> list[Waiting]:
        """The longest row of waiting requests that fits."""
        batch: list[Waiting] = []
        rows = 0
        while self._queue and rows + self._queue[0].rows <= rows_max:
            waiting = self._queue.popleft()
            self._queued_bytes -= waiting.size_bytes
            if not waiting.answer.done() and (not batch or alike(batch[0], waiting)):
                batch.append(waiting)
                rows += waiting.rows
            elif not waiting.answer.done():
                self._queue.appendleft(waiting)
                self._queued_bytes += waiting.size_bytes
                break
        return batch

    async def _answer(self, worker: Process, batch: list[Waiting]) -> None:
        """Run a batch; one that the model refuses is run again request by request."""
        try:
            await self._answer_together(worker, batch)
        except Failure as failure:
            if len(batch) == 1:
                refuse(batch[0], failure)
                return
            for waiting in batch:
                await self._answer(worker, [waiting])
        except BaseException as error:
            for waiting in batch:
                refuse(waiting, self._lost(str(error) or "it was stopped"))
            raise

    async def _answer_together(self, worker: Process, batch: list[Waiting]) -> None:
        """One exchange with the worker, shared out by rows."""
        names = batch[0].arrays
        joined = {name: np.concatenate([one.arrays[name] for one in batch]) for name in names}
        outputs = await worker.infer(joined, sum(one.rows for one in batch))
        start = 0
        for waiting in batch:
            end = start + waiting.rows
            if not waiting.answer.done():
                waiting.answer.set_result({k: v[start:end] for k, v in outputs.items()})
            start = end

    def _lost(self, reason: str) -> Failure:
        """What those are told whose worker went away."""
        return Failure(
            "UNAVAILABLE",
            f"the worker of {self.name} was lost while the request waited ({reason}): "
            "send it again",
            reason="WORKER_LOST",
        )


def alike(first: Waiting, second: Waiting) -> bool:
    """True when two requests differ in rows only."""
    return all(
        array.shape[1:] == second.arrays[name].shape[1:] for name, array in first.arrays.items()
    )


def refuse(waiting: Waiting, failure: Failure) -> None:
    """Fail a request, unless its caller has left."""
    if not waiting.answer.done():
        waiting.answer.set_exception(failure)
