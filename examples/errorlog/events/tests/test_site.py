import datetime
import json
import uuid
from unittest import mock

import redis
from django.core.cache import cache
from django.db import OperationalError
from django.test import TestCase
from django.utils import timezone

from events import health, views
from events.grouping import group_event, waiting_events
from events.models import Event, Group
from events.queue import Queue

from .base import plain_settings


@plain_settings
class SiteTest(TestCase):
    def setUp(self):
        cache.clear()

    def post(self, body):
        body = body if isinstance(body, bytes) else json.dumps(body)
        return self.client.post("/api/events/", data=body, content_type="application/json")

    def post_and_group(self, **body):
        event_id = self.post(body).json()["id"]
        group_event(event_id)
        return Event.objects.get(pk=event_id)

    def test_an_event_is_accepted_with_its_id(self):
        response = self.post({"type": "ValueError", "message": "it broke"})
        self.assertEqual(response.status_code, 202)
        event = Event.objects.get(pk=response.json()["id"])
        self.assertEqual((event.type, event.message, event.group), ("ValueError", "it broke", None))
        self.assertEqual(self.client.get(response["Location"]).json()["group"], None)

    def test_a_bad_event_is_refused_in_plain_words(self):
        for body, reason in [(b"{", "not JSON"), ({}, "'message' is missing"), (b" " * 65537, "larger than 64 KiB")]:
            response = self.post(body)
            self.assertEqual((response.status_code, response["Content-Type"]), (400, "text/plain; charset=utf-8"))
            self.assertIn(reason, response.content.decode())
        self.assertEqual(Event.objects.count(), 0)

    def test_an_event_sent_again_with_its_id_is_stored_once(self):
        event = {"id": str(uuid.uuid4()), "message": "it broke"}
        self.assertEqual([self.post(event).json()["id"] for _ in range(2)], [event["id"]] * 2)
        self.assertEqual(Event.objects.count(), 1)

    def test_an_event_is_accepted_while_redis_is_away(self):
        broken = mock.Mock(spec=Queue)
        broken.put.side_effect = redis.ConnectionError("refused")
        with self.settings(REDIS_URL="redis://redis.test"), mock.patch.object(views, "QUEUE", broken):
            self.assertEqual(self.post({"message": "it broke"}).status_code, 202)
        broken.put.assert_called_once_with(str(Event.objects.get().pk))

    def test_the_page_shows_groups_with_their_counts(self):
        for number in range(3):
            self.post_and_group(type="KeyError", message=f"no order {number}")
        self.post_and_group(message="<script>alert(1)</script>")
        page = self.client.get("/").content.decode()
        self.assertIn("2 groups, 4 events", page)
        self.assertIn("no order 0", page)
        self.assertNotIn("<script>", page)
        group = Group.objects.get(type="KeyError")
        self.assertEqual((group.count, group.events.count()), (3, 3))
        detail = self.client.get(group.get_absolute_url()).content.decode()
        self.assertIn("no order 2", detail)

    def test_the_page_is_cached_until_an_event_is_grouped(self):
        self.assertEqual([self.client.get("/")["X-Cache"] for _ in range(2)], ["miss", "hit"])
        self.post_and_group(message="it broke")
        response = self.client.get("/")
        self.assertEqual(response["X-Cache"], "miss")
        self.assertContains(response, "it broke")

    def test_an_empty_page_says_how_to_report(self):
        self.assertContains(self.client.get("/"), "curl http://testserver/api/events/")

    def test_an_unknown_group_or_event_is_not_found(self):
        self.assertEqual(self.client.get("/groups/7/").status_code, 404)
        self.assertEqual(self.client.get(f"/api/events/{uuid.uuid4()}/").status_code, 404)

    def test_the_same_job_twice_counts_once(self):
        event = self.post_and_group(message="it broke")
        self.assertFalse(group_event(str(event.pk)))
        self.assertEqual(Group.objects.get().count, 1)

    def test_only_old_events_without_a_group_are_waiting(self):
        self.post_and_group(message="grouped")
        lost, fresh = (self.post({"message": name}).json()["id"] for name in ("lost", "fresh"))
        Event.objects.exclude(pk=fresh).update(received_at=timezone.now() - datetime.timedelta(minutes=1))
        self.assertEqual(waiting_events(10), [lost])

    def test_a_request_during_a_database_outage_is_told_to_come_back(self):
        with mock.patch.object(Event.objects, "bulk_create", side_effect=OperationalError("gone")):
            response = self.post({"message": "it broke"})
        self.assertEqual((response.status_code, response["Retry-After"]), (503, "5"))

    def test_health_names_what_is_wrong_and_tells_no_secret(self):
        def refuse():
            raise OperationalError("password authentication failed for user errorlog at 10.0.0.7")

        checks = {"database": refuse, "redis": lambda: None, "memcached": health.check_memcached}
        with mock.patch.object(health, "CHECKS", checks):
            response = self.client.get("/health")
        self.assertEqual(response.status_code, 503)
        self.assertEqual(
            response.json(),
            {
                "database": "does not answer (OperationalError)",
                "redis": "ok",
                "memcached": "MEMCACHE_SERVERS is not set",
            },
        )

    def test_health_is_ok_when_all_three_are(self):
        with mock.patch.object(health, "CHECKS", dict.fromkeys(health.CHECKS, lambda: None)):
            response = self.client.get("/health")
        self.assertEqual((response.status_code, set(response.json().values())), (200, {"ok"}))

    def test_visitors_are_sent_to_https_unless_the_router_says_they_are_there(self):
        with self.settings(SECURE_SSL_REDIRECT=True):
            self.assertRedirects(
                self.client.get("/"), "https://testserver/", status_code=301, fetch_redirect_response=False
            )
            self.assertEqual(self.client.get("/", headers={"X-Forwarded-Proto": "https"}).status_code, 200)
