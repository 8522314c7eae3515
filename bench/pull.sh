#!/usr/bin/env bash
# The baseline of script/bench deploy: git pull and a restart on one host after the other, as a plain script has it.
#   bench/pull.sh <ssh config> <host>...
# The code that runs has been made a checkout before, and the packages are there.
set -euo pipefail
for host in "${@:2}"; do
  ssh -F "$1" "$host" 'cd /srv/www/shop/current/code && runuser -u shop -- git pull --quiet --ff-only &&
    supervisorctl restart shop-web-1 shop-web-2 shop-worker-1'
done
