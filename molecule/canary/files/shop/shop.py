"""An app that uses its database and redis in each request, and complains as apps do: with what it was given."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from urllib.parse import unquote, urlsplit


def psql(url, command):
    """Log in anew, as a framework without a pool of its own does for each request."""
    login = {"PGHOST": url.hostname, "PGPORT": str(url.port), "PGUSER": url.username, "PGDATABASE": url.path[1:]}
    environment = {**os.environ, **login, "PGPASSWORD": unquote(url.password)}
    return subprocess.run(
        ["/usr/bin/psql", "--no-psqlrc", f"--command={command}"], env=environment, check=False
    ).returncode


def redis_answers(url):
    with socket.create_connection((url.hostname, url.port), 10) as line, line.makefile("rb") as answers:
        password = unquote(url.password).encode()
        line.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(password), password))
        line.sendall(b"*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n")
        return answers.readline() == b"+OK\r\n" and answers.readline().startswith(b":")


def application(environ, start_response):
    """Answer every path, as bench/load.py asks; /health fails when the config says so."""
    path, status = environ["PATH_INFO"], "200 OK"
    body = {"version": hashlib.sha256(os.environ["SECRET_KEY"].encode()).hexdigest()[:8]}
    if path == "/health" and os.environ.get("SICK"):
        status = "500 Internal Server Error"
    if path == "/" and psql(urlsplit(os.environ["DATABASE_URL"]), "INSERT INTO orders VALUES (1)"):
        status = "500 The database refuses"
    if path == "/" and not redis_answers(urlsplit(os.environ["REDIS_URL"])):
        status = "500 redis refuses"
    if path == "/echo":
        body["sha256"] = hashlib.sha256(environ["wsgi.input"].read()).hexdigest()
    text = json.dumps(body).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]


if __name__ == "__main__":
    url = urlsplit(os.environ["DATABASE_URL"])
    if psql(url, "CREATE TABLE IF NOT EXISTS orders (id int)"):
        sys.exit(f"cannot use the database with {unquote(url.password)} nor {os.environ['SECRET_KEY']}")
