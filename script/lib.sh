# Functions that the scripts share. A script sources this from the repository's root.
# shellcheck shell=bash

# The environment's own programs first: molecule and ansible-lint start ansible-playbook by name.
export PATH="$PWD/.venv/bin:$PATH"

# Ansible starts a process for each task, and each would compile every plugin anew.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "$*"; }

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

# Heads one step, with the seconds since the script began.
step() { printf '\n[%3d s] %s\n' "$SECONDS" "$*"; }

# Prints a command as it could be typed.
show() {
  local word line=+
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "$line" >&2
}

run() {
  show "$@"
  "$@"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    run "$@"
  else
    run sudo -n "$@"
  fi
}

# Installs those of the named Debian packages that are missing.
apt_ensure() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
    die "Missing packages, and neither root nor a sudo without password to install them. Please run:
  sudo apt-get install --no-install-recommends ${missing[*]}"
  fi
  # A broken third-party source must not stop us: what matters is whether the install succeeds.
  as_root apt-get update -q || say 'apt-get update met errors; going on with the package lists at hand.'
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
    -o DPkg::Lock::Timeout=300 "${missing[@]}"
}

# Installs what makes the lab's servers: podman with a network, and what builds their image.
lab_packages() {
  local packages=(aardvark-dns ca-certificates curl debian-archive-keyring git iptables mmdebstrap netavark openssh-client podman)
  if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    packages+=(crun)
  else
    packages+=(runc)
  fi
  if [ "$(id -u)" != 0 ]; then
    packages+=(dbus-user-session fuse-overlayfs passt slirp4netns uidmap)
  fi
  apt_ensure "${packages[@]}"
}

# Says what an ordinary user's podman lacks here, before it says so less clearly.
lab_user() {
  [ "$(id -u)" != 0 ] || return 0
  [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] ||
    die 'As an ordinary user podman runs systemd on cgroup v2 alone, which this machine lacks: run this as root.'
  grep -q "^$(id -un):" /etc/subuid 2>/dev/null || die "podman needs user ids for its containers. Please run:
  sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
}
