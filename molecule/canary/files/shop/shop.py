"""An app whose release command uses the database, and complains as apps do: with what it was given."""

import os
import subprocess
import sys
from urllib.parse import unquote, urlsplit


def application(environ, start_response):
    """Answer every path; /health fails when the config says so."""
    sick = environ["PATH_INFO"] == "/health" and os.environ.get("SICK")
    start_response("500 Internal Server Error" if sick else "200 OK", [("Content-Type", "text/plain")])
    return [b"shop\n"]


if __name__ == "__main__":
    url = urlsplit(os.environ["DATABASE_URL"])
    login = {"PGHOST": url.hostname, "PGPORT": str(url.port), "PGUSER": url.username, "PGDATABASE": url.path[1:]}
    environment = {**os.environ, **login, "PGPASSWORD": unquote(url.password)}
    create = ["psql", "--no-psqlrc", "--command=CREATE TABLE IF NOT EXISTS orders (id int)"]
    if subprocess.run(create, env=environment, check=False).returncode:
        sys.exit(f"cannot use the database with {unquote(url.password)} nor {os.environ['SECRET_KEY']}")
