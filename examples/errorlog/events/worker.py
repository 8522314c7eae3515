import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from django.core.exceptions import ValidationError
from django.db import connection

from .grouping import group_event, waiting_events
from .middleware import DATABASE_OUTAGE
from .queue import Job, Queue, QueueError

logger = logging.getLogger(__name__)

T = TypeVar("T")

BLOCK_MS = 1_000
ABANDONED_MS = 30_000
ABANDONED_EVERY_SECONDS = 5
SWEEP_EVERY_SECONDS = 15
SWEEP_SIZE = 500
RETRY_SECONDS = 1


class Every:
    """True at the first call and then once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.next = 0.0

    def __call__(self) -> bool:
        if time.monotonic() < self.next:
            return False
        self.next = time.monotonic() + self.seconds
        return True


class Worker:
    """Groups events one at a time. It ends between two jobs, and outlives every restart of redis and the database."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.name = f"{os.environ.get('DYNO', 'worker')}-{socket.gethostname()}-{os.getpid()}"
        self.stopping = False
        self.abandoned_due = Every(ABANDONED_EVERY_SECONDS)
        self.sweep_due = Every(SWEEP_EVERY_SECONDS)

    def stop_on(self, *signals: signal.Signals) -> None:
        for number in signals:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame) -> None:
        self.stopping = True

    def run(self) -> None:
        logger.info("%s waits for events", self.name)
        while not self.stopping:
            if self.sweep_due():
                self.sweep()
            job = self.next_job()
            if job:
                self.work(job)
        logger.info("%s ends", self.name)

    def next_job(self) -> Job | None:
        try:
            if self.abandoned_due():
                self.queue.forget_consumers()
                job = self.queue.take_abandoned(self.name, ABANDONED_MS)
                if job:
                    # There may be more of them.
                    self.abandoned_due.next = 0
                    return job
            return self.queue.take(self.name, BLOCK_MS)
        except QueueError as error:
            logger.warning("redis does not answer, trying again: %s", error)
            time.sleep(RETRY_SECONDS)
            return None

    def work(self, job: Job) -> None:
        """Does a job and takes it off the queue; one that cannot be done stays there for the next worker."""
        while not self.group(job.event_id):
            if self.stopping:
                return
            time.sleep(RETRY_SECONDS)
        try:
            self.queue.done(job)
        except QueueError as error:
            # It comes again and is then found to be done.
            logger.warning("redis does not answer, job %s will come again: %s", job.entry, error)

    def sweep(self) -> None:
        """Groups what was stored while redis was away."""
        missed = self.with_database(lambda: waiting_events(SWEEP_SIZE)) or []
        for event_id in missed:
            if self.stopping or not self.group(event_id):
                return
        if missed:
            logger.info("%s found %d events that were not in the queue", self.name, len(missed))
        if len(missed) == SWEEP_SIZE:
            self.sweep_due.next = 0

    def group(self, event_id: str) -> bool:
        """False where the database did not answer."""
        try:
            return self.with_database(lambda: group_event(event_id)) is not None
        except ValidationError:
            logger.error("dropped a job that names no event: %r", event_id)
            return True

    @staticmethod
    def with_database(act: Callable[[], T]) -> T | None:
        try:
            return act()
        except DATABASE_OUTAGE as error:
            logger.warning("the database does not answer, trying again: %s", error)
            connection.close()
            return None
