"""The PyPI library `eventsourcing` on the same Postgres: what its own documentation does.

Run in an environment of its own, where LoomOS is not installed: `uv run … eventsourcing_peer.py`.
Prints one JSON object: events a second appended by one thread and by eight, and projected.
"""

import json
import sys
import threading
import time
from typing import Any

from eventsourcing.application import Application  # pyright: ignore
from eventsourcing.domain import Aggregate, event  # pyright: ignore
from eventsourcing.persistence import Tracking  # pyright: ignore
from eventsourcing.postgres import SQL, PostgresTrackingRecorder  # pyright: ignore
from eventsourcing.projection import Projection, ProjectionRunner  # pyright: ignore

THREADS = 8
STREAM_EVENTS = 100
PAYLOAD = "x" * 512


class Sample(Aggregate):
    """A stream of samples."""

    @event("Taken")
    def take(self, said: str) -> None:
        """One more."""
        self.said = said


class Samples(Application):
    """Appends one event a call, as each of our callers does."""

    def append(self, count: int) -> None:
        """So many events, each saved by itself."""
        sample = Sample()
        for number in range(1, count + 1):
            if number % STREAM_EVENTS == 0:
                sample = Sample()
            sample.take(PAYLOAD)
            self.save(sample)


class Rows(PostgresTrackingRecorder):
    """A read model of one table."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        table = "CREATE TABLE IF NOT EXISTS sample_rows (id bigint PRIMARY KEY, said text)"
        self.sql_create_statements.append(SQL(table).format())

    def add(self, said: str, tracking: Tracking) -> None:
        """A row and the position, in one transaction."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO sample_rows VALUES (%s, %s)",
                (tracking.notification_id, said),
            )


class IntoRows(Projection[Rows]):
    """Each event is a row."""

    name = "rows"

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """One event."""
        self.view.add(getattr(domain_event, "said", ""), tracking)


def main() -> None:
    """Append alone, append together, project all of it."""
    count = int(sys.argv[1])
    environ = {**json.loads(sys.stdin.read()), "PERSISTENCE_MODULE": "eventsourcing.postgres"}
    application = Samples(env=environ)
    began = time.perf_counter()
    application.append(count)
    alone = application.recorder.max_notification_id() / (time.perf_counter() - began)
    before = application.recorder.max_notification_id()
    threads = [
        threading.Thread(target=application.append, args=(count // THREADS,))
        for _ in range(THREADS)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = application.recorder.max_notification_id()
    together = (last - before) / (time.perf_counter() - began)
    began = time.perf_counter()
    with ProjectionRunner(
        application_class=Samples, projection_class=IntoRows, view_class=Rows, env=environ
    ) as runner:
        runner.wait(last, timeout=3600)
        projected = last / (time.perf_counter() - began)
    told = {"alone": alone, "together": together, "projected": projected}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
