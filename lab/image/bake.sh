#!/usr/bin/env bash
# Unpacks packages into a server image: bake.sh <package>...
set -euo pipefail

if ! apt-get install -qq --no-install-recommends "$@" >/tmp/apt.log 2>&1; then
  cat /tmp/apt.log
  exit 1
fi
apt-get clean
# Debian enables what it installs; a role shall have something to do.
systemctl --quiet disable haproxy memcached nginx pgbouncer postgresql redis-server supervisor
