"""Jinja filter heroku_addons: what takes the place of each Heroku add-on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

DOCUMENTATION = r"""
name: heroku_addons
short_description: What takes the place of each Heroku add-on
description:
  - Knows an add-on by its name, as app.json and C(heroku addons) write it, and by the config vars that it sets.
  - Says of each what replaces it here, or that nothing does.
positional: config
options:
  _input:
    description: Names of add-ons, with or without a plan.
    type: list
    elements: str
    required: true
  config:
    description: Names of config vars, by which add-ons are found that the list lacks.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ ['heroku-postgresql:essential-0', 'papertrail'] | heroku_addons(['SENTRY_DSN']) }}"
"""

RETURN = r"""
_value:
  description:
    - One mapping an add-on, in the order of their names. C(name), C(service) (the site's service that replaces it, or
      empty), C(text) (what a person reads) and C(left_out) (the config vars that are of no more use).
  type: list
  elements: dict
"""

STAY = (
    "Nothing here replaces it. Its config vars stay as they are, and work as long as the account does: one that was "
    "made through Heroku ends with the app there, so move to an account of your own first"
)
POSTGRESQL = "replaced by the site's PostgreSQL, through a pool on each web host; DATABASE_URL is the site's"
REDIS = (
    "replaced by the site's redis; REDIS_URL is the site's. What it holds now is not moved: let the workers empty it"
)
MEMCACHED = (
    "replaced by the site's memcached, one on each web host; MEMCACHE_SERVERS is the site's. It has neither user nor "
    "password"
)
LOGS = (
    "replaced by the log files of each process below /var/log/<app>/ on the web hosts, rotated; nothing is sent away, "
    "and nothing searches or alerts"
)
CRON = (
    "its jobs stand in no file: read them with  heroku addons:open scheduler  and write each into the entry's  schedule"
)
METRICS = "Nothing here replaces it: the site keeps no metrics of the app"
OWN_DOMAIN = "replaced by the site's nginx and the domains of the entry"

# An add-on's name: the config vars that it sets, the service that replaces it, and what is said of it. Of one that is
# replaced the config vars are left out, of any other they stay.
ADDONS: dict[str, tuple[str, str, str]] = {
    "adept-scale": (r"ADEPT_SCALE_\w+", "", "Nothing here scales by itself: the counts are those of the inventory"),
    "airbrake": (r"AIRBRAKE_\w+", "", STAY),
    "algoliasearch": (r"ALGOLIASEARCH_\w+", "", STAY),
    "autobus": (r"AUTOBUS_\w+", "", "Nothing here backs the database up yet: keep pg_dump running somewhere"),
    "blackfire": (r"BLACKFIRE_\w+", "", STAY),
    "bonsai": (r"BONSAI_URL", "", STAY),
    "bucketeer": (r"BUCKETEER_\w+", "", STAY),
    "cleardb": (r"CLEARDB_\w*URL", "", f"There is no MySQL here. {STAY}"),
    "cloudamqp": (r"CLOUDAMQP_\w+", "", f"There is no RabbitMQ here. {STAY}"),
    "cloudcube": (r"CLOUDCUBE_\w+", "", STAY),
    "cloudinary": (r"CLOUDINARY_\w+", "", STAY),
    "coralogix": (r"CORALOGIX_\w+", "", LOGS),
    "cron-to-go": (r"CRONTOGO_\w+", "", CRON),
    "deadmanssnitch": (r"DEADMANSSNITCH_\w+", "", STAY),
    "expeditedssl": (r"EXPEDITEDSSL_\w+", "", OWN_DOMAIN),
    "fixie": (r"FIXIE_URL", "", "The servers have fixed addresses: tell the other side those, and remove FIXIE_URL"),
    "heroku-connect": (r"HEROKUCONNECT_\w+", "", STAY),
    "heroku-kafka": (r"KAFKA_\w+", "", f"There is no Kafka here. {STAY}"),
    "heroku-postgresql": (
        r"DATABASE_URL|DATABASE_CONNECTION_POOL_URL|HEROKU_POSTGRESQL_\w+_URL",
        "postgresql",
        POSTGRESQL,
    ),
    "heroku-redis": (r"REDIS_URL|REDIS_TLS_URL|HEROKU_REDIS_\w+_(TLS_)?URL", "redis", REDIS),
    "honeybadger": (r"HONEYBADGER_\w+", "", STAY),
    "ironworker": (r"IRON_\w+", "", STAY),
    "jawsdb": (r"JAWSDB_\w*URL", "", f"There is no MySQL here. {STAY}"),
    "jawsdb-maria": (r"JAWSDB_MARIA_\w*URL", "", f"There is no MySQL here. {STAY}"),
    "judoscale": (r"JUDOSCALE_\w+", "", "Nothing here scales by itself: the counts are those of the inventory"),
    "librato": (r"LIBRATO_\w+", "", METRICS),
    "logdna": (r"LOGDNA_\w+", "", LOGS),
    "logentries": (r"LOGENTRIES_\w+", "", LOGS),
    "logtail": (r"LOGTAIL_\w+", "", LOGS),
    "loggly": (r"LOGGLY_\w+", "", LOGS),
    "mailgun": (r"MAILGUN_\w+", "", f"No mail is sent from the servers themselves. {STAY}"),
    "mailtrap": (r"MAILTRAP_\w+", "", STAY),
    "memcachedcloud": (r"MEMCACHEDCLOUD_\w+", "memcached", MEMCACHED),
    "memcachier": (r"MEMCACHIER_\w+", "memcached", MEMCACHED),
    "mongolab": (r"MONGOLAB_\w+|MONGODB_URI", "", f"There is no MongoDB here. {STAY}"),
    "newrelic": (r"NEW_RELIC_\w+", "", STAY),
    "openredis": (r"OPENREDIS_URL", "redis", REDIS),
    "papertrail": (r"PAPERTRAIL_\w+", "", LOGS),
    "pgbackups": (r"PGBACKUPS_\w+", "", "Nothing here backs the database up yet: keep pg_dump running somewhere"),
    "postmark": (r"POSTMARK_\w+", "", f"No mail is sent from the servers themselves. {STAY}"),
    "process-scheduler": (r"PROCESS_SCHEDULER_\w+", "", CRON),
    "quotaguard": (r"QUOTAGUARD_\w+", "", "The servers have fixed addresses: tell the other side those, and remove it"),
    "quotaguardstatic": (
        r"QUOTAGUARDSTATIC_\w+",
        "",
        "The servers have fixed addresses: tell the other side those, and remove it",
    ),
    "rediscloud": (r"REDISCLOUD_\w*URL", "redis", REDIS),
    "redisgreen": (r"REDISGREEN_URL", "redis", REDIS),
    "redistogo": (r"REDISTOGO_URL", "redis", REDIS),
    "rollbar": (r"ROLLBAR_\w+", "", STAY),
    "scheduler": (r"SCHEDULER_\w+", "", CRON),
    "scoutapp": (r"SCOUT_\w+", "", STAY),
    "searchbox": (r"SEARCHBOX_\w*URL", "", STAY),
    "sendgrid": (r"SENDGRID_\w+", "", f"No mail is sent from the servers themselves. {STAY}"),
    "sentry": (r"SENTRY_DSN", "", STAY),
    "solarwinds": (r"SW_APM_\w+|SOLARWINDS_\w+", "", LOGS),
    "ssl": ("", "", OWN_DOMAIN),
    "stackhero-redis": (r"STACKHERO_REDIS_\w+", "redis", REDIS),
    "sumologic": (r"SUMOLOGIC_\w+", "", LOGS),
    "timber-logging": (r"TIMBER_\w+", "", LOGS),
    "twilio": (r"TWILIO_\w+", "", STAY),
}
OTHER_NAMES = {
    "heroku-data-for-redis": "heroku-redis",
    "heroku-key-value-store": "heroku-redis",
    "heroku-scheduler": "scheduler",
    "keyvalue": "heroku-redis",
    "mezmo": "logdna",
    "raygun": "airbrake",
}
# Of no use to the app itself, whether or not something replaces the add-on.
OF_NO_USE = re.compile(
    r"PAPERTRAIL_\w+|LOGENTRIES_\w+|LOGDNA_\w+|CORALOGIX_\w+|SUMOLOGIC_\w+|SCHEDULER_\w+|ADEPT_SCALE_\w+"
)


def heroku_addons(addons: Iterable[str], config: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return what is to be said of each add-on."""
    names = {known(addon) for addon in addons}
    variables = sorted(config)
    for name, (pattern, _service, _text) in ADDONS.items():
        if pattern and any(re.fullmatch(pattern, variable) for variable in variables):
            names.add(name)
    return [described(name, variables) for name in sorted(names)]


def known(addon: str) -> str:
    name = addon.partition(":")[0].strip()
    return OTHER_NAMES.get(name, name)


def described(name: str, variables: list[str]) -> dict[str, Any]:
    pattern, service, text = ADDONS.get(name, ("", "", STAY))
    own = [variable for variable in variables if pattern and re.fullmatch(pattern, variable)]
    left_out = own if service else [variable for variable in own if OF_NO_USE.fullmatch(variable)]
    return {"name": name, "service": service, "text": text, "left_out": left_out}


class FilterModule:
    """Hand the filter to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"heroku_addons": heroku_addons}
