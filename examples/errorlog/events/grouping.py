import datetime

from django.core.cache import cache
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest
from django.utils import timezone

from .models import Event, Group

GROUP_LIST_KEY = "group-list"
SWEEP_AGE = datetime.timedelta(seconds=10)


def group_event(event_id: str) -> bool:
    """Puts an event into its group and counts it; false where that was done before, so an id may come twice."""
    with transaction.atomic():
        # Only the event's own row: two workers with the same event wait for each other here.
        event = Event.objects.select_for_update().filter(pk=event_id, group=None).first()
        if event is None:
            return False
        group, _ = Group.objects.get_or_create(
            fingerprint=event.fingerprint,
            defaults={
                "type": event.type,
                "message": event.message,
                "level": event.level,
                "first_seen": event.received_at,
                "last_seen": event.received_at,
            },
        )
        Group.objects.filter(pk=group.pk).update(
            count=F("count") + 1, last_seen=Greatest("last_seen", event.received_at), level=event.level
        )
        event.group = group
        event.save(update_fields=["group"])
    cache.delete(GROUP_LIST_KEY)
    return True


def waiting_events(limit: int) -> list[str]:
    """Events whose place in the line was lost: older than any that a worker would still reach by itself."""
    old = timezone.now() - SWEEP_AGE
    waiting = Event.objects.filter(group=None, received_at__lt=old).order_by("received_at")
    return [str(pk) for pk in waiting.values_list("pk", flat=True)[:limit]]
