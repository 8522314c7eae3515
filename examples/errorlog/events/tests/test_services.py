"""With real servers: run where REDIS_URL and MEMCACHE_SERVERS name some. Nothing of the running app is touched."""

import datetime
import os
import signal
import socket
import threading
import time
import uuid
from unittest import mock, skipUnless

from django.conf import settings
from django.core.cache import caches
from django.db import connection
from django.test import SimpleTestCase, TransactionTestCase, override_settings
from django.utils import timezone

from events import health, worker
from events.models import Event, Group
from events.payload import fingerprint
from events.queue import GROUP, Queue, connect


def store(message: str, age_seconds: float = 0) -> str:
    received = timezone.now() - datetime.timedelta(seconds=age_seconds)
    event = Event.objects.create(
        received_at=received, message=message, level="error", fingerprint=fingerprint("", message)
    )
    return str(event.pk)


@skipUnless(settings.REDIS_URL, "REDIS_URL names no server")
class WorkerTest(TransactionTestCase):
    def setUp(self):
        self.client = connect(timeout=5)
        self.addCleanup(self.client.close)
        self.queue = Queue(self.client, f"errorlog:test:{uuid.uuid4()}")
        self.addCleanup(lambda: self.client.delete(self.queue.stream))

    def work_until_idle(self, test_worker=None):
        test_worker = test_worker or worker.Worker(self.queue)
        with mock.patch.object(worker, "BLOCK_MS", 50):
            while job := test_worker.next_job():
                test_worker.work(job)

    def test_a_job_is_done_once_and_leaves_nothing_behind(self):
        event_id = store("it broke")
        self.queue.put(event_id)
        self.queue.put(event_id)
        self.work_until_idle()
        self.assertEqual(Group.objects.get().count, 1)
        self.assertEqual(self.client.xlen(self.queue.stream), 0)
        self.assertEqual(self.client.xpending(self.queue.stream, GROUP)["pending"], 0)

    def test_the_job_of_a_killed_worker_goes_to_another(self):
        self.queue.put(store("it broke"))
        self.assertIsNotNone(self.queue.take("killed", 50))
        with mock.patch.object(worker, "ABANDONED_MS", 0):
            self.work_until_idle()
        self.assertEqual(Group.objects.get().count, 1)

    def test_a_redis_that_came_back_empty_is_used_again(self):
        test_worker = worker.Worker(self.queue)
        self.work_until_idle(test_worker)
        self.client.delete(self.queue.stream)
        self.queue.put(store("it broke"))
        self.work_until_idle(test_worker)
        self.assertEqual(Group.objects.get().count, 1)

    def test_a_job_that_names_no_event_is_dropped(self):
        self.queue.put("nonsense")
        self.queue.put(str(uuid.uuid4()))
        self.work_until_idle()
        self.assertEqual(self.client.xlen(self.queue.stream), 0)

    def test_an_event_that_never_reached_the_queue_is_swept_up(self):
        store("lost", age_seconds=60)
        store("fresh")
        worker.Worker(self.queue).sweep()
        self.assertEqual([group.message for group in Group.objects.all()], ["lost"])

    def test_a_job_survives_a_closed_database_connection(self):
        if connection.vendor != "postgresql":
            self.skipTest("only a server can close its connections")
        self.queue.put(store("it broke"))
        connection.connection.close()
        self.work_until_idle()
        self.assertEqual(Group.objects.get().count, 1)

    def test_sigterm_ends_the_worker_between_two_jobs(self):
        for number in range(3):
            self.queue.put(store(f"event {number}"))
        test_worker = worker.Worker(self.queue)
        before = signal.getsignal(signal.SIGTERM)
        self.addCleanup(signal.signal, signal.SIGTERM, before)
        test_worker.stop_on(signal.SIGTERM)

        def group_and_get_signal(event_id):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            return real_group_event(event_id)

        real_group_event = worker.group_event
        with mock.patch.object(worker, "group_event", group_and_get_signal):
            test_worker.run()
        self.assertEqual(Event.objects.exclude(group=None).count(), 1)
        self.assertEqual(self.client.xlen(self.queue.stream), 2)
        self.assertEqual(self.client.xpending(self.queue.stream, GROUP)["pending"], 0)


@skipUnless(settings.REDIS_URL and settings.MEMCACHE_SERVERS, "REDIS_URL and MEMCACHE_SERVERS name no servers")
class HealthTest(TransactionTestCase):
    def test_all_three_answer(self):
        self.assertEqual(health.report(), {"database": "ok", "redis": "ok", "memcached": "ok"})

    def test_a_frozen_database_is_given_up(self):
        if connection.vendor != "postgresql":
            self.skipTest("only a server can freeze")
        frozen = {"TIME_LIMIT_SECONDS": 0.2, "PING": "SELECT pg_sleep(3)"}
        started = time.monotonic()
        with mock.patch.multiple(health, **frozen):
            self.assertEqual(health.report()["database"], "does not answer (OperationalError)")
        self.assertLess(time.monotonic() - started, 2)
        self.assertEqual(health.report()["database"], "ok")


class CacheLoginTest(SimpleTestCase):
    def serve(self, replies):
        """A memcached of one connection that gives these replies, and the lines that it was sent."""
        listener = socket.create_server(("127.0.0.1", 0))
        lines = []

        def talk():
            conversation, _ = listener.accept()
            with conversation, conversation.makefile("rb") as stream:
                for reply in replies:
                    lines.append(stream.readline().strip())
                    if lines[-1].startswith(b"set"):
                        lines.append(stream.readline().strip())
                    conversation.sendall(reply)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        self.addCleanup(listener.close)
        self.addCleanup(thread.join, 5)
        return f"127.0.0.1:{listener.getsockname()[1]}", lines

    def cache(self, location):
        options = {"username": "4A7B", "password": "s3cret", "timeout": 2, "ignore_exc": True, "retry_attempts": 0}
        backend = {"BACKEND": "events.cache.MemcachedCache", "LOCATION": location, "OPTIONS": options}
        with override_settings(CACHES={"default": backend}):
            return caches["default"]

    def test_memcachier_is_told_name_and_password_first(self):
        location, lines = self.serve([b"STORED\r\n", b"END\r\n"])
        self.assertIsNone(self.cache(location).get("key"))
        self.assertEqual(lines, [b"set 4A7B 0 0 6", b"s3cret", b"get :1:key"])

    def test_a_refused_login_is_a_miss(self):
        location, _ = self.serve([b"NOT_STORED\r\n"])
        self.assertIsNone(self.cache(location).get("key"))
