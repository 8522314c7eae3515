"""An app that writes what is posted into its database before it answers."""

import os

import psycopg


def database():
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, prepare_threshold=None)


def application(environ, start_response):
    """Answer POST once the body is in the database, and GET at once; both with who asked."""
    if environ["REQUEST_METHOD"] == "POST":
        with database() as connection:
            connection.execute("INSERT INTO orders VALUES (%s)", [environ["wsgi.input"].read().decode()])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["HTTP_X_FORWARDED_FOR"].encode()]


if __name__ == "__main__":
    with database() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (name text)")
