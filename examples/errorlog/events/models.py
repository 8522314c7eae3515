import uuid

from django.db import models
from django.urls import reverse


class Group(models.Model):
    """Events that are the same error."""

    fingerprint = models.CharField(max_length=64, unique=True)
    type = models.CharField(max_length=200)
    message = models.TextField()
    level = models.CharField(max_length=10)
    count = models.PositiveBigIntegerField(default=0)
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.type else self.message

    def get_absolute_url(self) -> str:
        return reverse("group-detail", args=[self.pk])


class Event(models.Model):
    """One error as it was reported."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    received_at = models.DateTimeField()
    type = models.CharField(max_length=200, blank=True)
    message = models.TextField()
    level = models.CharField(max_length=10)
    fingerprint = models.CharField(max_length=64)
    stacktrace = models.TextField(blank=True)
    extra = models.JSONField(default=dict)
    group = models.ForeignKey(Group, null=True, on_delete=models.CASCADE, related_name="events", db_index=False)

    class Meta:
        indexes = [
            models.Index(fields=["group", "-received_at"], name="event_group_newest"),
            models.Index(fields=["received_at"], condition=models.Q(group=None), name="event_waiting"),
        ]

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.type else self.message
