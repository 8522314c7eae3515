# Functions that the scripts share. A script sources this from the repository's root.
# shellcheck shell=bash

# The environment's own programs first: molecule and ansible-lint start ansible-playbook by name.
export PATH="$PWD/.venv/bin:$PATH"

say() { printf '%s\n' "$*"; }

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

# Heads one step, with the seconds since the script began.
step() { printf '\n[%3d s] %s\n' "$SECONDS" "$*"; }

# Prints a command as it could be typed, then runs it.
run() {
  local word line=+
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "$line" >&2
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
