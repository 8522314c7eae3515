"""Writers on the web host of a scenario, and what was acknowledged to them: ../files/ledger.py does the writing."""

import os
import subprocess
import time
from itertools import pairwise
from pathlib import Path

CLIENT = "host=127.0.0.1 port=6432 dbname=probe user=probe connect_timeout=5"
ENVIRONMENT = "PGPASSWORD=probe-password-for-tests"


def environment():
    """What podman needs on this machine: lab/podman.sh."""
    conf = Path(".lab/containers.conf")
    return {**os.environ, **({"CONTAINERS_CONF": str(conf.absolute())} if conf.exists() else {})}


def podman(*words):
    return subprocess.run(["podman", *words], capture_output=True, text=True, env=environment())


class Ledger:
    """A table that is made anew, writers of it through the pooler, and each commit that was acknowledged to one."""

    def __init__(self, scenario):
        self.web, self.scenario, self.writers, self.until = f"offramp-{scenario}-web1", scenario, None, None
        podman("cp", str(Path(__file__).parents[1] / "files/ledger.py"), f"{self.web}:/root/")
        self.write("DROP TABLE IF EXISTS ledger; CREATE TABLE ledger (name text PRIMARY KEY)")

    def write(self, statement):
        done = podman("exec", "--env", ENVIRONMENT, self.web, "psql", "-XAtc", statement, CLIENT)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, seconds=120, writers=4):
        command = ["podman", "exec", "--env", ENVIRONMENT, self.web]
        words = ["python3", "/root/ledger.py", "/root/ledger.txt", str(seconds), str(writers)]
        self.writers, self.until = subprocess.Popen([*command, *words], env=environment()), None
        time.sleep(2)

    def stop(self):
        if self.writers:
            self.until = self.until or time.time()
            podman("exec", self.web, "touch", "/root/ledger.stop")
            self.writers.wait()

    def ended(self):
        self.writers.wait()
        lines = podman("exec", self.web, "cat", "/root/ledger.txt").stdout.splitlines()
        self.errors = [line for line in lines if line.startswith("error")]
        self.acknowledged = {line.split()[0]: float(line.split()[-1]) for line in lines if not line.startswith("error")}
        self.waits = [float(line.split()[-2]) for line in lines]
        self.refusals = [float(line.split()[-2]) for line in self.errors]
        # For whoever reads why a test failed.
        print(*sorted(self.errors, key=lambda line: -float(line.split()[-2]))[:8], sep="\n")
        assert len(self.acknowledged) > 100
        # Where nobody told them to stop, each has told how its last one ended.
        self.until = self.until or max(float(line.split()[-1]) for line in lines)
        return self

    def enough(self):
        self.stop()
        return self.ended()

    def lost(self, primary):
        query = ["psql", "-U", "postgres", "-XAtc", "SELECT name FROM ledger", "probe"]
        done = podman("exec", f"offramp-{self.scenario}-{primary}", *query)
        assert done.returncode == 0, done.stderr
        present = set(done.stdout.split())
        return {name: at for name, at in self.acknowledged.items() if name not in present}

    def gap(self, since):
        """The longest time without an acknowledged commit, from a moment on until the writers stopped."""
        times = [since, *sorted(at for at in self.acknowledged.values() if at > since), self.until]
        return max(after - before for before, after in pairwise(times))

    def back(self, since):
        """Seconds from a moment until the next commit was acknowledged."""
        return min(at for at in self.acknowledged.values() if at > since) - since
