from django.urls import path

from events import views

urlpatterns = [
    path("", views.group_list, name="group-list"),
    path("groups/<int:pk>/", views.group_detail, name="group-detail"),
    path("api/events/", views.accept_event, name="event-accept"),
    path("api/events/<uuid:pk>/", views.event_detail, name="event-detail"),
    path("health", views.health, name="health"),
]
