import logging

from django.db import InterfaceError, InternalError, OperationalError
from django.http import HttpResponse

logger = logging.getLogger(__name__)

# InternalError: a server that just became a standby refuses to write.
DATABASE_OUTAGE = (OperationalError, InterfaceError, InternalError)


class DatabaseOutageMiddleware:
    """Says 503 and 'come back' where the database does not answer, since that is not the fault of the request."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        if not isinstance(exception, DATABASE_OUTAGE):
            return None
        logger.warning("database outage at %s %s: %s", request.method, request.path, exception)
        return HttpResponse(
            "The database does not answer. Please try again in a few seconds.\n",
            status=503,
            content_type="text/plain; charset=utf-8",
            headers={"Retry-After": "5"},
        )
