# Makes podman usable on this machine: sourced, from the repository's root, by whatever is about to call podman.
# shellcheck shell=bash
#
# An ordinary machine (cgroup v2, root with every capability or an ordinary user) needs nothing, and nothing is written.
# Where one of the conditions below holds, .lab/containers.conf answers it; it replaces the user's own containers.conf
# for our calls alone, and a CONTAINERS_CONF that is already set is left to its owner.

podman_conf() {
  local backend files processes lines=()

  # crun refuses hybrid cgroups, runc does not mind.
  if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
    lines+=('[engine]' 'runtime = "runc"')
  fi

  # Debian 12's podman chooses CNI, whose fixed addresses and name resolution want plugins that Debian splits off.
  backend=$(podman info --format '{{.Host.NetworkBackend}}' 2>/dev/null)
  if [ "$backend" != netavark ] && [ -x /usr/lib/podman/netavark ]; then
    lines+=('[network]' 'network_backend = "netavark"')
  fi

  # Root without CAP_SYS_RESOURCE (bit 24) cannot raise a limit, and podman's defaults are higher than any. Of an
  # ordinary user podman does not try it. The number of processes gets a limit well below the machine's own, since
  # podman lowers its own on the way.
  if [ "$(id -u)" = 0 ] && ! ((0x$(awk '/^CapEff/ { print $2 }' /proc/self/status) & 1 << 24)); then
    files=$(ulimit -Hn)
    processes=$(ulimit -Hu)
    ((processes <= 10000)) || processes=10000
    lines+=('[containers]' "default_ulimits = [\"nofile=$files:$files\", \"nproc=$processes:$processes\"]")
  fi

  [ ${#lines[@]} -eq 0 ] || printf '%s\n' "${lines[@]}"
}

command -v podman >/dev/null || die 'podman is missing: script/up and script/test install it.'

if [ -z "${CONTAINERS_CONF-}" ]; then
  if [ ! -e .lab/containers.conf ]; then
    mkdir -p .lab
    podman_conf >.lab/containers.conf.$$
    mv .lab/containers.conf.$$ .lab/containers.conf
  fi
  if [ -s .lab/containers.conf ]; then
    export CONTAINERS_CONF=$PWD/.lab/containers.conf
  fi
fi

# Two scenarios that start at once build one image, and an image has one name for all checkouts.
lock_images() {
  local lock
  exec {lock}<"$(podman info --format '{{.Store.GraphRoot}}')"
  flock "$lock"
}
