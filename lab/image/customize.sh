#!/usr/bin/env bash
# Turns a fresh Debian tree into a leased server as podman can run it. mmdebstrap calls it: customize.sh <tree>
set -euo pipefail
tree=$1

put() { install -D -m 0644 /dev/stdin "$tree/$1"; }

# The lab's key comes by a mount, beside whatever keys the playbooks manage.
put /etc/ssh/sshd_config.d/10-lab.conf <<'EOT'
AuthorizedKeysFile /etc/ssh/lab_authorized_keys .ssh/authorized_keys
PermitRootLogin prohibit-password
EOT

# Each server gets host keys and a machine id of its own when it first starts.
rm -f "$tree"/etc/ssh/ssh_host_*
: >"$tree/etc/machine-id"
put /etc/systemd/system/ssh.service.d/10-lab.conf <<'EOT'
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
EOT

# podman started from a login gives its containers that login's id, and they lack the capability to change it.
sed -i '/pam_loginuid/s/required/optional/' "$tree"/etc/pam.d/*

# A container's /tmp is there already; a second one over it has hidden files that Ansible had just put there.
ln -sf /dev/null "$tree/etc/systemd/system/tmp.mount"

# Nobody sits at a console to be asked; each of these would use up one of the machine's few inotify instances.
ln -sf /dev/null "$tree/etc/systemd/system/systemd-ask-password-console.path"
ln -sf /dev/null "$tree/etc/systemd/system/systemd-ask-password-wall.path"

# Nothing in a lab needs to survive a power cut between two packages.
put /etc/dpkg/dpkg.cfg.d/lab <<<force-unsafe-io

# The authorities that this machine trusts beside Debian's, for networks that inspect TLS.
if [ -s "${LAB_CA_BUNDLE-}" ]; then
  mkdir -p "$tree/usr/local/share/ca-certificates"
  awk -v folder="$tree/usr/local/share/ca-certificates" '
    /BEGIN CERTIFICATE/ { text = "" }
    { text = text $0 "\n" }
    /END CERTIFICATE/ {
      if (FILENAME == ARGV[1]) stock[text] = 1
      else if (!(text in stock)) printf "%s", text > sprintf("%s/lab-%03d.crt", folder, ++count)
    }' "$tree/etc/ssl/certs/ca-certificates.crt" "$LAB_CA_BUNDLE"
  chroot "$tree" update-ca-certificates >/dev/null 2>&1
fi
