"""An app as it ran on Heroku: it counts its users, and knows nothing of the servers that it is on."""

import json
import os

import psycopg
import redis


def app(environ, start_response):
    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        users = database.execute("SELECT count(*) FROM users WHERE email LIKE 'user%'::citext").fetchone()[0]
    shown = {
        "users": users,
        "redis": redis.Redis.from_url(os.environ["REDISCLOUD_URL"]).ping(),
        "key": os.environ["SIGNING_KEY"],
        "motto": os.environ["MOTTO"],
        "path": environ["PATH_INFO"],
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]


if __name__ == "__main__":
    with psycopg.connect(os.environ["DATABASE_URL"]) as database:
        database.execute("ALTER TABLE users ADD COLUMN IF NOT EXISTS nick text")
