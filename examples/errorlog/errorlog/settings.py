"""Settings of errorlog; everything that differs from place to place comes from the environment."""

import os
from pathlib import Path

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent


def env_list(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


DEBUG = os.environ.get("DEBUG", "0").lower() in {"1", "true", "yes", "on"}

SECRET_KEY = os.environ.get("SECRET_KEY") or ("only-for-development" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured("SECRET_KEY is not set: give it a long random value, or set DEBUG=1 on your own machine")

ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", ".localhost,127.0.0.1,[::1]")

INSTALLED_APPS = [
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "events",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "events.middleware.DatabaseOutageMiddleware",
]

ROOT_URLCONF = "errorlog.urls"
WSGI_APPLICATION = "errorlog.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# The router in front of the app ends TLS and says so in this header, which it never takes from a client.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = not DEBUG

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

DATABASES = {
    "default": dj_database_url.config(
        default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}", conn_max_age=60, conn_health_checks=True
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # A pooler may give each transaction another server connection, so nothing may outlive a transaction in one.
    DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True
    DATABASES["default"].setdefault("OPTIONS", {}).update({"prepare_threshold": None, "connect_timeout": 3})

REDIS_URL = os.environ.get("REDIS_URL", "")
EVENT_STREAM = "errorlog:events"

MEMCACHE_SERVERS = env_list("MEMCACHE_SERVERS") or env_list("MEMCACHIER_SERVERS")
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
if MEMCACHE_SERVERS:
    CACHES["default"] = {
        "BACKEND": "events.cache.MemcachedCache",
        "LOCATION": MEMCACHE_SERVERS,
        "KEY_PREFIX": "errorlog",
        # The cache only saves time: a server that does not answer at once is a miss, and is left alone for a while.
        "OPTIONS": {
            "username": os.environ.get("MEMCACHIER_USERNAME", ""),
            "password": os.environ.get("MEMCACHIER_PASSWORD", ""),
            "connect_timeout": 0.2,
            "timeout": 0.2,
            "no_delay": True,
            "ignore_exc": True,
            "retry_attempts": 0,
            "dead_timeout": 2,
        },
    }

MAX_EVENT_BYTES = 64 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_EVENT_BYTES

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "events": {"handlers": ["console"], "level": "INFO"},
    },
}
