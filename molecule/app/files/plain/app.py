"""An app without a Procfile."""


def app(_environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"plain"]
