import signal

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from events.queue import Queue, connect
from events.worker import Worker


class Command(BaseCommand):
    help = "Groups events as they come in, until SIGTERM."

    def handle(self, *args, **options):
        if not settings.REDIS_URL:
            raise CommandError("REDIS_URL is not set: the worker takes its jobs from redis")
        worker = Worker(Queue(connect(timeout=5)))
        worker.stop_on(signal.SIGTERM, signal.SIGINT)
        worker.run()
