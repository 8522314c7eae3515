"""What every service of ours is kept from; shared by the modules that write units."""

from __future__ import annotations

# A role's own lines follow these: lists grow by them, and the rest is as the last line says. Never RemoveIPC=: when
# pgbouncer stops, it would take away the shared memory of PostgreSQL, whose user is the same.
SANDBOX = """\
# Nothing below it gets rights that it was not started with, and nothing of it is written to a core file.
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictSUIDSGID=yes
LimitCORE=0
# The system is read-only, with a /tmp of its own; what a service writes to, its role names.
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
# The host's kernel, clock and name are not its business.
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
# A call that is not allowed fails, and ends nobody.
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
SystemCallArchitectures=native
LockPersonality=yes
MemoryDenyWriteExecute=yes
"""
