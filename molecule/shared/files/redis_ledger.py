"""Add numbers to a set in redis, one after the other, and write down on this host which were acknowledged.

It needs nothing but python3. Each writer has one connection at a time. A line of the ledger is "<writer>-<number>
<seconds>", written only after redis has answered; a line that begins with "error" is what a client saw instead.
"""

import os
import socket
import sys
import threading
import time
from pathlib import Path

PASSWORD = b"redis-password-for-tests"
ANSWER_SECONDS = 40
# Four writers come to somewhat less than a thousand a second.
PAUSE_SECONDS = 0.004


def command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Writer(threading.Thread):
    def __init__(self, name, ledger, port, until):
        super().__init__()
        self.writer, self.ledger, self.port, self.until = name, ledger, port, until
        self.line = None

    def note(self, text):
        self.ledger.write(f"{text} {time.time():.3f}\n")
        self.ledger.flush()

    def ask(self, *words):
        self.line.sendall(command(*words))
        answer = self.answers.readline()
        if not answer.startswith((b":", b"+")):
            raise OSError(answer.decode().strip() or "closed")

    def connect(self):
        if self.port.isdigit():
            self.line = socket.create_connection(("127.0.0.1", int(self.port)), ANSWER_SECONDS)
        else:
            self.line = socket.socket(socket.AF_UNIX)
            self.line.settimeout(ANSWER_SECONDS)
            self.line.connect(self.port)
        self.answers = self.line.makefile("rb")
        self.ask(b"AUTH", b"offramp", PASSWORD)

    def run(self):
        number = 0
        while time.time() < self.until:
            number += 1
            name = f"{self.writer}-{number}"
            try:
                if self.line is None:
                    self.connect()
                self.ask(b"SADD", b"ledger", name.encode())
            except OSError as error:
                self.note(f"error {name} {str(error)!r}")
                self.line = None
                time.sleep(0.05)
                continue
            self.note(name)
            time.sleep(PAUSE_SECONDS)


def main():
    path, port, seconds, writers = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    with Path(path).open("w") as ledger:
        until = time.time() + seconds
        threads = [Writer(f"{os.getpid()}-{index}", ledger, port, until) for index in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


main()
