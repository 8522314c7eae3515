import logging

from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import RequestDataTooBig
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST, require_safe

from . import health as health_checks
from .grouping import GROUP_LIST_KEY
from .models import Event, Group
from .payload import BadEvent, parse_event
from .queue import Queue, QueueError, connect

logger = logging.getLogger(__name__)

GROUP_LIST_SECONDS = 5
GROUPS_SHOWN = 100
EVENTS_SHOWN = 20

QUEUE: Queue | None = None


def queue() -> Queue:
    """One for the process, so that its connections are kept."""
    global QUEUE
    if QUEUE is None:
        QUEUE = Queue(connect(timeout=0.2))
    return QUEUE


def plain(status: int, text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")


@csrf_exempt
@require_POST
def accept_event(request: HttpRequest) -> HttpResponse:
    try:
        fields = parse_event(request.body)
    except RequestDataTooBig:
        return plain(400, f"the event is larger than {settings.MAX_EVENT_BYTES // 1024} KiB")
    except BadEvent as error:
        return plain(400, str(error))

    event = Event(received_at=timezone.now(), **fields)
    # A client that heard no answer sends its event again, with the same id.
    Event.objects.bulk_create([event], ignore_conflicts=True)
    if settings.REDIS_URL:
        try:
            queue().put(str(event.id))
        except QueueError as error:
            logger.warning("redis does not answer, event %s waits for the worker's sweep: %s", event.id, error)
    location = reverse("event-detail", args=[event.id])
    return JsonResponse({"id": str(event.id)}, status=202, headers={"Location": location})


@never_cache
@require_GET
def event_detail(request: HttpRequest, pk) -> JsonResponse:
    event = Event.objects.select_related("group").filter(pk=pk).first()
    if event is None:
        return JsonResponse({"error": "no such event"}, status=404)
    group = event.group and {"id": event.group.pk, "title": str(event.group), "count": event.group.count}
    return JsonResponse({"id": str(event.id), "received_at": event.received_at, "group": group})


@never_cache
@require_safe
def group_list(request: HttpRequest) -> HttpResponse:
    page = cache.get(GROUP_LIST_KEY)
    cached = page is not None
    if page is None:
        page = {
            "groups": list(Group.objects.order_by("-last_seen")[:GROUPS_SHOWN]),
            "group_count": Group.objects.count(),
            "event_count": Group.objects.aggregate(total=Sum("count"))["total"] or 0,
            "waiting_count": Event.objects.filter(group=None).count(),
        }
        cache.set(GROUP_LIST_KEY, page, timeout=GROUP_LIST_SECONDS)
    response = render(request, "events/group_list.html", page)
    response["X-Cache"] = "hit" if cached else "miss"
    return response


@never_cache
@require_safe
def group_detail(request: HttpRequest, pk: int) -> HttpResponse:
    group = get_object_or_404(Group, pk=pk)
    events = group.events.order_by("-received_at")[:EVENTS_SHOWN]
    return render(request, "events/group_detail.html", {"group": group, "events": events})


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    report = health_checks.report()
    return JsonResponse(report, status=200 if set(report.values()) == {"ok"} else 503)
