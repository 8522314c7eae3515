#!/usr/bin/env bash
# Builds a server image from Debian's packages, unless it is there already: lab/image.sh trixie|bookworm[-baked]
#   trixie         a bare server, as it is leased: the lab's
#   trixie-baked   the same with the roles' packages unpacked and nothing enabled: for the scenarios of single roles
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. script/lib.sh
. lab/podman.sh

name=$1
release=${name%-baked}
image=localhost/offramp-lab:$name

case $release in
  trixie | bookworm) ;;
  *) die "No such image: $name. There are trixie and bookworm, each also as -baked." ;;
esac

# The certificates that this machine trusts in addition to Debian's, where it has any.
ca_bundle() {
  local file
  for file in "${SSL_CERT_FILE-}" "${REQUESTS_CA_BUNDLE-}" "${CURL_CA_BUNDLE-}"; do
    [ ! -f "$file" ] || { cat "$file"; return; }
  done
  find /usr/local/share/ca-certificates -name '*.crt' -exec cat {} + 2>/dev/null || true
}

# What the groups wire to role base, every base_packages_* list in group_vars.
role_packages() {
  .venv/bin/python - <<'EOT'
import pathlib, yaml

lists = [
    packages
    for file in pathlib.Path("group_vars").rglob("*.yml")
    for name, packages in (yaml.safe_load(file.read_text()) or {}).items()
    if name.startswith("base_packages_") and isinstance(packages, list)
]
print("\n".join(sorted({package for packages in lists for package in packages})))
EOT
}

is_built() { [ "$(podman image inspect --format '{{index .Labels "offramp.recipe"}}' "$image" 2>/dev/null)" = "$recipe" ]; }

[ "$name" = "$release" ] || lab/image.sh "$release"

mkdir -p .lab/build
lock_images

ca_bundle >.lab/build/ca.pem
ingredients=(lab/image.sh lab/image/bare lab/image/customize.sh .lab/build/ca.pem)
if [ "$name" != "$release" ]; then
  role_packages >.lab/build/baked
  ingredients+=(lab/image/bake.sh .lab/build/baked)
fi
recipe=$(cat "${ingredients[@]}" | sha256sum | cut -c1-16)
is_built && exit

say "Building the image $name from Debian packages, once: half a minute on a quiet machine."
if [ "$name" = "$release" ]; then
  # apt's lists stay: a machine whose lists are empty and fresh finds no package.
  LAB_CA_BUNDLE=$PWD/.lab/build/ca.pem run mmdebstrap --quiet --variant=minbase --skip=cleanup/apt/lists \
    --include="$(paste -sd , lab/image/bare)" \
    --customize-hook=lab/image/customize.sh \
    "$release" ".lab/build/$name.tar"
  run podman import --quiet --change 'CMD ["/sbin/init"]' --change "LABEL offramp.recipe=$recipe" \
    ".lab/build/$name.tar" "$image" >/dev/null
  rm ".lab/build/$name.tar"
else
  builder=offramp-build-$name
  podman rm --force --ignore "$builder" >/dev/null
  mapfile -t baked <.lab/build/baked
  run podman run --name "$builder" --network host --env DEBIAN_FRONTEND=noninteractive \
    --volume "$PWD/lab/image/bake.sh:/bake.sh:ro" "localhost/offramp-lab:$release" \
    bash /bake.sh "${baked[@]}"
  run podman commit --quiet --change 'CMD ["/sbin/init"]' --change "LABEL offramp.recipe=$recipe" "$builder" "$image" >/dev/null
  podman rm "$builder" >/dev/null
fi
# What the new one replaced goes, except where a server still runs on it.
podman images --quiet --filter dangling=true --filter label=offramp.recipe |
  xargs --no-run-if-empty --max-args=1 podman rmi >/dev/null 2>&1 || true
