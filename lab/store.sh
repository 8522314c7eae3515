#!/usr/bin/env bash
# Builds the image of the lab's bucket, unless it is there already, and makes its certificate: lab/store.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. script/lib.sh
. lab/podman.sh

image=localhost/offramp-lab:store
builder=offramp-build-store

lab/image.sh trixie

mkdir -p .lab/store
lock_images

# nginx in the container reads it as root; the servers trust it as they would a private authority.
[ -s .lab/store/certificate.pem ] || run openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
  -days 3650 -subj /CN=store1 -addext subjectAltName=DNS:store1 \
  -keyout .lab/store/key.pem -out .lab/store/certificate.pem

recipe=$(cat lab/store.sh lab/image/store.sh | sha256sum | cut -c1-16)
[ "$(podman image inspect --format '{{index .Labels "offramp.recipe"}}' "$image" 2>/dev/null)" != "$recipe" ] || exit 0

say 'Building the image store from Debian packages, once: a minute on a quiet machine.'
podman rm --force --ignore "$builder" >/dev/null
run podman run --name "$builder" --network host --env DEBIAN_FRONTEND=noninteractive \
  --volume "$PWD/lab/image/store.sh:/build.sh:ro" localhost/offramp-lab:trixie bash /build.sh
run podman commit --quiet --change 'CMD ["/sbin/init"]' --change "LABEL offramp.recipe=$recipe" "$builder" "$image" >/dev/null
podman rm "$builder" >/dev/null
