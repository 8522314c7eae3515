#!/usr/bin/python3
"""Make this server's cluster a standby of the other server's, and lose nothing that it holds."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.postgresql_admin import Administrator, peer_conninfo
from ansible.module_utils.postgresql_cluster import Cluster

DOCUMENTATION = r"""
module: postgresql_standby
short_description: Makes this server's cluster a standby of the other server's
description:
  - A cluster with nobody's database is replaced by a copy of the primary (C(pg_basebackup)). One that was primary
    itself is wound back to where the histories part (C(pg_rewind)), else replaced by a copy.
  - What the primary does not have is kept. Before C(pg_rewind) the cluster's WAL is copied, and before a copy the whole
    data directory is moved, both to C(/var/lib/postgresql/<version>/kept-<time>). Only a cluster with nobody's database
    is removed.
  - A standby that was away for longer than the primary keeps WAL for it gets a new slot, and goes on from the archive
    where the server has a C(restore_command) that finds the WAL there.
  - Leaves the server stopped after a change, so that its settings can be brought up to the primary's before it starts.
options:
  version:
    description: Major version of PostgreSQL.
    type: int
    required: true
  port:
    description: TCP port of both servers.
    type: int
    default: 5432
  peer:
    description: Address of the primary.
    type: str
    required: true
  rejoin:
    description: >-
      Take over a cluster that was primary, or that does not follow. Without it only a new cluster becomes a standby,
      and one that is a standby is left alone.
    type: bool
    default: false
  restore:
    description: >-
      Command that restores the newest base backup of the primary's, to which C(--pg1-path) is added, in place of
      C(pg_basebackup). Where it fails, or restores another cluster, the primary is copied after all.
    type: list
    elements: str
    default: []
  state:
    description: >-
      C(present) makes it a standby; C(streaming) waits until it streams from the primary, as long as it gets on with
      the WAL that it finds in the archive.
    type: str
    choices: [present, streaming]
    default: present
author: [Offramp]
"""

EXAMPLES = r"""
- name: Have the server follow the primary
  postgresql_standby:
    version: 17
    peer: 192.0.2.21
"""

RETURN = r"""
how:
  description: C(following) when there was nothing to do, C(rewound), C(copied) or C(restored).
  returned: always
  type: str
kept:
  description: Directory with what the primary does not have.
  returned: always
  type: str
"""

# What gets on shows it by another segment within this time; one from the archive has to be fetched first.
REPLAY_SECONDS = 10
FETCH_SECONDS = 60
# pg_basebackup must not find the slot taken; pg_rewind needs one that holds the WAL from now on.
SLOT = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
WHERE slot_name = 'standby' AND NOT active AND wal_status = 'lost'
"""
MAKE_SLOT = """
SELECT pg_create_physical_replication_slot('standby', true)
WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'standby')
"""
# What it kept for its own standby while it was primary; here it would hold the WAL for ever.
OWN_SLOT = (
    "SELECT pg_drop_replication_slot('standby') FROM pg_replication_slots WHERE slot_name = 'standby' AND NOT active"
)
# After pg_rewind a server is ready once it has all that the primary had, and the header of a segment that the primary,
# where nobody writes, has yet to begin. Commits may be waiting for this very standby.
WRITE = "SELECT set_config('synchronous_commit', 'local', false), pg_logical_emit_message(true, 'offramp', 'rejoin')"
PRIMARY = "SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system())"
LOST_SLOT = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'standby' AND NOT active AND wal_status = 'lost'"
RESTORES = "SELECT setting <> '' FROM pg_settings WHERE name = 'restore_command'"
# A connection that is refused its WAL, for want of a slot or of a common history, streams for a moment, too.
RECEIVES = "SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming'"
SENDS = """
SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
FROM pg_replication_slots JOIN pg_stat_activity ON pid = active_pid
WHERE slot_name = 'standby' AND clock_timestamp() - backend_start > interval '1 second'
"""


class Standby:
    """This host's cluster, on its way to follow the other host's."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.cluster = Cluster(module.params["version"])
        self.local = Administrator(module, self.cluster, module.params["port"])
        self.primary = peer_conninfo(module.params["peer"], module.params["port"])
        self.kept: Path | None = None
        self.changed = False

    def follow(self) -> str:
        if self.cluster.is_standby and not self.module.params["rejoin"]:
            return "following"
        if self.cluster.has_databases and not self.module.params["rejoin"]:
            self.fail("this server holds databases of its own. To have it follow, run  playbooks/rejoin.yml")
        if self.module.check_mode:
            return "following" if self.cluster.is_standby and self.follows_already() else "copied"
        identifier = self.primary_identifier()
        # A failover leaves the new primary without one, and without it nothing streams.
        self.make_slot()
        if self.cluster.is_standby and self.follows_already():
            return "following"
        self.ask_primary(SLOT)
        self.make_slot()
        own = self.local.control()["Database system identifier"] if self.cluster.is_initialised else ""
        # Servers made from one image have one identifier, and new clusters with nothing in common.
        if own == identifier and (self.cluster.has_databases or self.cluster.is_standby) and self.rewind():
            return "rewound"
        return self.copy(identifier)

    def fail(self, message: str) -> None:
        self.module.fail_json(msg=message, kept=str(self.kept or ""))

    def primary_identifier(self) -> str:
        recovering, identifier = self.ask_primary(PRIMARY)
        if recovering == "t":
            self.fail(f"the server at {self.module.params['peer']} is no primary")
        return identifier

    def ask_primary(self, query: str) -> list[str]:
        answer = self.local.ask(query, self.primary)
        if answer is None:
            self.fail(f"the primary at {self.module.params['peer']} does not answer: {self.local.said.strip()}")
        return answer

    def make_slot(self) -> None:
        if self.ask_primary(MAKE_SLOT):
            self.changed = True

    def follows_already(self) -> bool:
        """Whether the standby, started where it is stopped, is on the primary's history."""
        if self.cluster.postmaster is None and not self.module.check_mode:
            self.changed = True
            # One whose history has parted from the primary's is never ready, and a start would wait for that.
            self.local.systemctl("start", "--no-block", self.cluster.unit)
        if not self.catches_up(REPLAY_SECONDS) and not self.goes_on_from_the_archive():
            return False
        self.local.ask(OWN_SLOT)
        return True

    def goes_on_from_the_archive(self) -> bool:
        """Whether the standby, of which the primary kept WAL no longer, catches up from the archive."""
        lost = self.ask_primary(LOST_SLOT)
        if not lost or self.module.check_mode or self.local.ask(RESTORES) != ["t"]:
            return False
        self.ask_primary(SLOT)
        self.make_slot()
        return self.catches_up(FETCH_SECONDS)

    def streams(self) -> bool:
        """Whether both say so, of the primary's history."""
        received = self.local.ask(RECEIVES)
        return bool(received) and received == self.local.ask(SENDS, self.primary)

    def catches_up(self, standstill: int) -> bool:
        """Wait until the standby streams, for as long as it gets on with the WAL that it finds."""
        seen, deadline = "", time.monotonic() + standstill
        while time.monotonic() < deadline:
            if self.streams():
                return True
            # Before it lets anybody in, the title of its process tells which segment it has come to.
            title = self.module.run_command(["ps", "--ppid", str(self.cluster.postmaster or 0), "-o", "args="])[1]
            at = re.findall(r"recovering ([0-9A-F]{24})", title)
            if at and at[0] != seen:
                seen, deadline = at[0], time.monotonic() + standstill
            time.sleep(0.5)
        return False

    def stop(self) -> None:
        code, error = self.local.systemctl("stop", self.cluster.unit)
        if code:
            self.fail(f"systemctl stop {self.cluster.unit}: {error}")

    def mark(self) -> None:
        self.cluster.standby_signal.touch()
        shutil.chown(self.cluster.standby_signal, "postgres", "postgres")

    def keep(self) -> Path:
        """Return a new directory beside the data for what the primary does not have."""
        self.kept = self.cluster.data.parent / time.strftime("kept-%Y%m%d-%H%M%S", time.gmtime())
        self.kept.mkdir(mode=0o700)
        shutil.chown(self.kept, "postgres", "postgres")
        return self.kept

    def rewind(self) -> bool:
        """Wind the cluster back to where the primary's history left it, or say that this cannot be done."""
        self.stop()
        kept = self.keep()
        # A server that follows cannot recover on its own from a crash, which pg_rewind has it do first.
        was_standby = self.cluster.is_standby
        self.cluster.standby_signal.unlink(missing_ok=True)
        try:
            shutil.copytree(self.cluster.data / "pg_wal", kept / "pg_wal")
            shutil.copy2(self.cluster.data / "global/pg_control", kept / "pg_control")
            code, out, error = self.local.run(
                *(str(self.cluster.programs / "pg_rewind"), f"--target-pgdata={self.cluster.data}"),
                *(f"--source-server={self.primary}", f"--config-file={self.cluster.configuration}/postgresql.conf"),
            )
        except (OSError, shutil.Error) as error:
            self.fail(f"what the primary does not have cannot be kept: {error}. Make room, and run it again")
        finally:
            self.mark()
        nothing = "no rewind required" in out + error
        # A standby that follows no more and has nothing to rewind lacks WAL that the primary has not kept.
        done = code == 0 and not (nothing and was_standby)
        if done:
            self.ask_primary(WRITE)
        # Before a copy, all of the data is kept in its place.
        if nothing or not done:
            shutil.rmtree(kept)
            self.kept = None
        self.drop_own_slots()
        if code:
            self.module.warn(
                f"pg_rewind: {error.strip().splitlines()[-1] if error.strip() else code}. So it is copied."
            )
        return done

    def drop_own_slots(self) -> None:
        """Remove the slots that it had as primary: on a standby they would hold its WAL for ever."""
        for slot in (self.cluster.data / "pg_replslot").glob("*"):
            shutil.rmtree(slot)

    def restore(self, new: Path, identifier: str) -> bool:
        """Restore the newest base backup, if there is one and it is the primary's."""
        if not self.module.params["restore"]:
            return False
        new.mkdir(mode=0o700)
        shutil.chown(new, "postgres", "postgres")
        code, out, error = self.local.run(*self.module.params["restore"], f"--pg1-path={new}")
        problem = (error.strip() or out.strip()).splitlines()[-1:] if code else []
        if not problem and self.local.control(new)["Database system identifier"] != identifier:
            problem = ["the base backup is another cluster's"]
        if problem:
            shutil.rmtree(new)
            self.module.warn(f"{self.module.params['restore'][0]}: {problem[0]}. So the primary is copied.")
        return not problem

    def copy(self, identifier: str) -> str:
        new = self.cluster.data.with_name("main.new")
        shutil.rmtree(new, ignore_errors=True)
        restored = self.restore(new, identifier)
        if not restored:
            self.copy_primary(new)
        self.stop()
        if self.cluster.has_databases:
            self.cluster.data.rename(self.keep() / "main")
        elif self.cluster.data.exists():
            shutil.rmtree(self.cluster.data)
        new.rename(self.cluster.data)
        self.mark()
        return "restored" if restored else "copied"

    def copy_primary(self, new: Path) -> None:
        code, _out, error = self.local.run(
            *(str(self.cluster.programs / "pg_basebackup"), f"--pgdata={new}", f"--dbname={self.primary}"),
            *("--slot=standby", "--wal-method=stream", "--checkpoint=fast"),
        )
        if code:
            shutil.rmtree(new, ignore_errors=True)
            self.fail(f"pg_basebackup: {error.strip()}")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "int", "required": True},
            "port": {"type": "int", "default": 5432},
            "peer": {"type": "str", "required": True},
            "rejoin": {"type": "bool", "default": False},
            "restore": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "streaming"], "default": "present"},
        },
        supports_check_mode=True,
    )
    standby = Standby(module)
    if module.params["state"] == "streaming":
        if not standby.catches_up(FETCH_SECONDS):
            standby.fail(
                f"it does not follow the primary at {module.params['peer']}. Its log ends:\n{standby.local.log}"
            )
        module.exit_json(changed=False, how="following", kept="")
    how = standby.follow()
    module.exit_json(changed=how != "following" or standby.changed, how=how, kept=str(standby.kept or ""))


if __name__ == "__main__":
    main()
