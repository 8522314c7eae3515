from django.core.cache.backends.memcached import PyMemcacheCache
from pymemcache import Client, HashClient, MemcacheClientError


class MemcachedCache(PyMemcacheCache):
    """Memcached, with MemCachier's login where a user name is given: a first `set` of the name to the password."""

    def __init__(self, server, params):
        super().__init__(server, params)
        username, password = self._options.pop("username"), self._options.pop("password")

        class LoggedInClient(Client):
            def _connect(self):
                super()._connect()
                if username and not self.set(username, password.encode(), noreply=False):
                    self.close()
                    raise MemcacheClientError("the user name or the password was refused")

        self._class = type("LoggedInHashClient", (HashClient,), {"client_class": LoggedInClient})
