from django.test import override_settings

# As in development: the tests need neither TLS, nor collected files, nor other servers.
plain_settings = override_settings(
    ALLOWED_HOSTS=["testserver"],
    SECURE_SSL_REDIRECT=False,
    STORAGES={"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}},
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    REDIS_URL="",
    MEMCACHE_SERVERS=[],
)
