"""An app with one web instance and no Procfile."""

import json
import platform
from pathlib import Path


def app(_environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"build": Path.cwd().name, "python": platform.python_version()}).encode()]
