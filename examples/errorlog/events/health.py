import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import contextmanager, suppress

from django.conf import settings
from django.core.cache import caches
from django.db import connections

from .queue import connect

logger = logging.getLogger(__name__)

TIME_LIMIT_SECONDS = 2.0
PING = "SELECT 1"


class Unhealthy(Exception):
    """What is wrong, in words that may be public."""


@contextmanager
def time_limit(connection, seconds: float):
    """Cuts the connection when the time is up: a server that is frozen would keep its client waiting for ever."""
    if connection.vendor != "postgresql":
        yield
        return
    done = threading.Event()

    def cut_when_late():
        wait = seconds
        # Again and again, since Django makes a new connection where the old one broke.
        while not done.wait(wait):
            wait = 0.1
            raw = connection.connection
            if raw is not None and not raw.closed:
                with socket.socket(fileno=os.dup(raw.fileno())) as copy, suppress(OSError):
                    copy.shutdown(socket.SHUT_RDWR)

    watch = threading.Thread(target=cut_when_late, daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def check_database() -> None:
    connection = connections["default"]
    try:
        with time_limit(connection, TIME_LIMIT_SECONDS), connection.cursor() as cursor:
            cursor.execute(PING)
            cursor.fetchone()
    except Exception:
        connection.close()
        raise


def check_redis() -> None:
    if not settings.REDIS_URL:
        raise Unhealthy("REDIS_URL is not set")
    with connect(timeout=0.5) as client:
        client.ping()


def check_memcached() -> None:
    if not settings.MEMCACHE_SERVERS:
        raise Unhealthy("MEMCACHE_SERVERS is not set")
    key, value = f"health-{uuid.uuid4()}", uuid.uuid4().hex
    # A client of its own, which knows of no server that was down a moment ago.
    cache = caches.create_connection("default")
    try:
        # The client finds out that a server is down by asking it, and asks another one the next time.
        for _ in settings.MEMCACHE_SERVERS:
            cache.set(key, value, timeout=10)
            if cache.get(key) == value:
                return
    finally:
        cache.close()
    raise Unhealthy("a value that was set did not come back")


CHECKS: dict[str, Callable[[], None]] = {
    "database": check_database,
    "redis": check_redis,
    "memcached": check_memcached,
}


def report() -> dict[str, str]:
    """'ok' or what is wrong, for each service."""
    return {name: _result(name, check) for name, check in CHECKS.items()}


def _result(name: str, check: Callable[[], None]) -> str:
    try:
        check()
    except Unhealthy as error:
        return str(error)
    except Exception as error:
        # The whole message names addresses and users, and the page is public.
        logger.warning("health: %s: %s", name, error)
        return f"does not answer ({type(error).__name__})"
    return "ok"
