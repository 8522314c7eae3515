"""Events on their way to the workers: a redis stream with one consumer group, so that a job stays until it is done.

Each job is the id of an event that is already in the database: losing redis loses no event, only its place in the line.
"""

from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

GROUP = "workers"
MAX_LENGTH = 100_000
CONSUMER_FORGOTTEN_MS = 3_600_000

QueueError = redis.RedisError


@dataclass(frozen=True)
class Job:
    entry: str
    event_id: str


def connect(timeout: float) -> redis.Redis:
    options: dict[str, Any] = {}
    if settings.REDIS_URL.startswith("rediss://"):
        # Heroku's redis shows a certificate that it signed itself.
        options["ssl_cert_reqs"] = None
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        # Once more where the server closed an idle connection; a server that is silent is not asked twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        decode_responses=True,
        **options,
    )


class Queue:
    def __init__(self, client: redis.Redis, stream: str | None = None) -> None:
        self.client = client
        self.stream = stream or settings.EVENT_STREAM

    def put(self, event_id: str) -> None:
        self.client.xadd(self.stream, {"event": event_id}, maxlen=MAX_LENGTH, approximate=True)

    def take(self, consumer: str, block_ms: int) -> Job | None:
        """The next new job, after at most block_ms."""
        reply = self._in_group(
            lambda: self.client.xreadgroup(GROUP, consumer, {self.stream: ">"}, count=1, block=block_ms)
        )
        return self._job(reply[0][1]) if reply else None

    def take_abandoned(self, consumer: str, idle_ms: int) -> Job | None:
        """A job that another worker took and did not finish in idle_ms."""
        reply = self._in_group(
            lambda: self.client.xautoclaim(self.stream, GROUP, consumer, min_idle_time=idle_ms, start_id="0-0", count=1)
        )
        return self._job(reply[1])

    def done(self, job: Job) -> None:
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.xack(self.stream, GROUP, job.entry)
            pipeline.xdel(self.stream, job.entry)
            pipeline.execute()

    def forget_consumers(self) -> None:
        """Drops the names of workers that are long gone and left nothing behind."""
        for consumer in self._in_group(lambda: self.client.xinfo_consumers(self.stream, GROUP)):
            if consumer["pending"] == 0 and consumer["idle"] > CONSUMER_FORGOTTEN_MS:
                self.client.xgroup_delconsumer(self.stream, GROUP, consumer["name"])

    def _in_group(self, command):
        try:
            return command()
        except redis.ResponseError as error:
            # A redis that came back empty: 'no such key' is the answer of XINFO alone.
            if not str(error).startswith(("NOGROUP", "no such key")):
                raise
        try:
            self.client.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        return command()

    @staticmethod
    def _job(entries) -> Job | None:
        if not entries:
            return None
        entry, fields = entries[0]
        return Job(entry, fields.get("event", ""))
