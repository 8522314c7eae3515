"""Insert numbers through the pooler, one after the other, and write down on this host which were acknowledged.

It runs on a web host with what is there: python3 and psql. Each writer has one session at a time. A line of the ledger
is "<writer>-<number> <seconds waited> <time>", written only after the commit has returned; a line that begins with
"error" is what a client saw instead. Of a new session, the login counts as waiting.
"""

import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

DATABASE = "host=127.0.0.1 port=6432 dbname=probe user=probe connect_timeout=5"
INSERT = "INSERT INTO ledger VALUES (:'name') RETURNING name;\n"
ANSWER_SECONDS = 40
# Made by whoever has seen enough.
STOP = Path("/root/ledger.stop")
# Not Debian's wrapper, whose start would take more of the host than all else here.
PSQL = max(Path("/usr/lib/postgresql").glob("*/bin/psql"))


class Writer(threading.Thread):
    def __init__(self, name, ledger, until):
        super().__init__()
        self.writer, self.ledger, self.until = name, ledger, until

    def note(self, line):
        self.ledger.write(f"{line} {time.time():.3f}\n")
        self.ledger.flush()

    def session(self):
        return subprocess.Popen(
            [
                PSQL,
                "--no-psqlrc",
                "--quiet",
                "--no-align",
                "--tuples-only",
                "--set=ON_ERROR_STOP=1",
                DATABASE,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self):
        number, session = 0, self.session()
        while time.time() < self.until and not STOP.exists():
            number += 1
            name, asked = f"{self.writer}-{number}", time.monotonic()
            answer = self.say(session, f"\\set name {name}\n{INSERT}")
            waited = f"{time.monotonic() - asked:.3f}"
            if answer == name:
                self.note(f"{name} {waited}")
                time.sleep(0.005)
                continue
            self.note(f"error {name} {answer!r} {waited}")
            session.kill()
            session.wait()
            time.sleep(0.4)
            session = self.session()
        session.kill()

    def say(self, session, statement):
        try:
            session.stdin.write(statement.encode())
            session.stdin.flush()
        except OSError as error:
            return str(error)
        ready, _, _ = select.select([session.stdout], [], [], ANSWER_SECONDS)
        if not ready:
            return "no answer"
        return os.read(session.stdout.fileno(), 4096).decode().strip()


def main():
    path, seconds, writers = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    STOP.unlink(missing_ok=True)
    with Path(path).open("w") as ledger:
        threads = [Writer(f"{os.getpid()}-{index}", ledger, time.time() + seconds) for index in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


main()
