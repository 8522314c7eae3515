#!/usr/bin/env bash
# Makes what scans a site, each unless it is there already: lab/scanner.sh
#   the image of the stranger, with Debian's scanners
#   .lab/scanner/tools, those of PyPI, by a lock of their own and for the image's Python
#   an authority, and a certificate of it for the names of the scanned site
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. script/lib.sh
. lab/podman.sh

image=localhost/offramp-lab:scanner
builder=offramp-build-scanner
packages=(bsdextrautils dnsutils git gitleaks lynis nmap ssg-debian tcpdump testssl.sh)

lab/image.sh trixie

mkdir -p .lab/scanner
lock_images

# For 80 days, as an authority issues them, and made anew in time.
certificate=.lab/scanner/certificate.pem
if ! openssl x509 -checkend 864000 -noout -in "$certificate" >/dev/null 2>&1; then
  (
    umask 077
    cd .lab/scanner
    run openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 81 -subj '/CN=Offramp tests' \
      -addext keyUsage=critical,keyCertSign,cRLSign -keyout authority.key -out authority.pem
    run openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=probe.example \
      -keyout key.pem -out request.pem
    run openssl x509 -req -in request.pem -CA authority.pem -CAkey authority.key -CAcreateserial -days 80 \
      -extfile <(printf '%s\n' subjectAltName=DNS:probe.example,DNS:second.example basicConstraints=critical,CA:false \
        keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth) -out leaf.pem
    rm authority.key
    chmod 644 authority.pem
    mv leaf.pem certificate.pem
  )
fi

# No uv.toml of the machine may change what the lock says, nor what a package asks for: the lock has it all.
lock=tests/security/requirements.lock
if ! cmp --silent "$lock" .lab/scanner/tools/lock; then
  rm -rf .lab/scanner/tools
  run .venv/bin/uv pip install --quiet --no-config --no-deps --require-hashes --python-version 3.13 \
    --target .lab/scanner/tools --requirement "$lock"
  cp "$lock" .lab/scanner/tools/lock
fi

recipe=$({ echo "${packages[@]}"; podman image inspect --format '{{.Id}}' localhost/offramp-lab:trixie; } | sha256sum | cut -c1-16)
[ "$(podman image inspect --format '{{index .Labels "offramp.recipe"}}' "$image" 2>/dev/null)" != "$recipe" ] || exit 0

say 'Building the image scanner from Debian packages, once: a minute on a quiet machine.'
podman rm --force --ignore "$builder" >/dev/null
run podman run --name "$builder" --network host --env DEBIAN_FRONTEND=noninteractive localhost/offramp-lab:trixie \
  sh -c 'apt-get install -qq --no-install-recommends "$@" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; exit 1; }; apt-get clean' \
  install "${packages[@]}"
run podman commit --quiet --change 'CMD ["/sbin/init"]' --change "LABEL offramp.recipe=$recipe" "$builder" "$image" >/dev/null
podman rm "$builder" >/dev/null
# What the new one replaced goes, except where a server still runs on it.
podman images --quiet --filter dangling=true --filter label=offramp.recipe |
  xargs --no-run-if-empty --max-args=1 podman rmi >/dev/null 2>&1 || true
