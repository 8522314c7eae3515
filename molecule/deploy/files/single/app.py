"""An app with one web instance and no Procfile."""

from pathlib import Path


def app(_environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [Path.cwd().name.encode()]
