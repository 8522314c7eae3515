"""A stranger's requests, as bytes: visitor.py <malformed|slow> <address>. Says what came of them as JSON."""

import json
import socket
import ssl
import sys
import threading
import time

HOST = "probe.example"
HEAD = f"Host: {HOST}\r\n"
MARK = "/smuggled-by-a-stranger"
SECOND = f"GET {MARK} HTTP/1.1\r\n{HEAD}\r\n"
CHUNKS = f"0\r\n\r\n{SECOND}"
LONG_HEADER = f"X-A: {'a' * 1000}\r\n"
GET, POST = f"GET / HTTP/1.1\r\n{HEAD}", f"POST / HTTP/1.1\r\n{HEAD}"
CHUNKED = "Transfer-Encoding: chunked\r\n"
# Two servers in a row could read each of the first in two ways, of which one has the second request in it.
MALFORMED = {
    "two lengths": f"{POST}Content-Length: 0\r\nContent-Length: {len(SECOND)}\r\n\r\n{SECOND}",
    "a length with a sign": f"{POST}Content-Length: +{len(SECOND)}\r\n\r\n{SECOND}",
    "a list of lengths": f"{POST}Content-Length: 0, {len(SECOND)}\r\n\r\n{SECOND}",
    "length and chunks": f"{POST}Content-Length: {len(CHUNKS)}\r\n{CHUNKED}\r\n{CHUNKS}",
    "two encodings": f"{POST}{CHUNKED}Transfer-Encoding: identity\r\n\r\n{CHUNKS}",
    "an unknown encoding": f"{POST}Transfer-Encoding: xchunked\r\n\r\n{CHUNKS}",
    "chunks in HTTP/1.0": f"POST / HTTP/1.0\r\n{HEAD}{CHUNKED}\r\n{CHUNKS}",
    "a space before the colon": f"{POST}Content-Length : {len(SECOND)}\r\n\r\n{SECOND}",
    "a folded header": f"{POST}Transfer-Encoding:\r\n chunked\r\n\r\n{CHUNKS}",
    "a chunk of no size": f"{POST}{CHUNKED}\r\n-1\r\n{SECOND}",
    "a chunk of too great a size": f"{POST}{CHUNKED}\r\nffffffffffffffff1\r\n{SECOND}",
    "a NUL in a header": f"{GET}X-A: a\0b\r\n\r\n",
    "two hosts": f"{GET}Host: second.example\r\n\r\n",
    "no host": "GET / HTTP/1.1\r\n\r\n",
    "a space in the path": f"GET /a b HTTP/1.1\r\n{HEAD}\r\n",
    "a header of 64 KiB": f"{GET}X-A: {'a' * 65536}\r\n\r\n",
    "64 KiB of headers": f"{GET}{LONG_HEADER * 64}\r\n",
    "an address of 64 KiB": f"GET /{'a' * 65536} HTTP/1.1\r\n{HEAD}\r\n",
    "a body of 1 TiB": f"{POST}Content-Length: {2**40}\r\n\r\n",
}
SLOW_CLIENTS, SLOW_SECONDS = 200, 24


def connect(address):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    plain = socket.create_connection((address, 443), 10)
    return context.wrap_socket(plain, server_hostname=HOST)


def ask(address, request):
    """Return the status of each answer until the server closes."""
    said = b""
    with connect(address) as connection:
        connection.settimeout(5)
        try:
            connection.sendall(request.encode())
            while part := connection.recv(65536):
                said += part
        except TimeoutError:
            said += b"HTTP/1.1 still-open"
        except OSError:
            pass
    return [part.split(None, 1)[0].decode() for part in said.split(b"HTTP/1.1 ")[1:]]


def malformed(address):
    return {name: ask(address, request) for name, request in MALFORMED.items()}


def drip(address, opening, seconds, ended):
    """Send a byte a second, and note when the server has had enough."""
    try:
        with connect(address) as connection:
            begin = time.monotonic()
            connection.sendall(opening)
            connection.settimeout(1)
            while time.monotonic() < begin + seconds:
                try:
                    connection.sendall(b"a")
                    if not connection.recv(4096):
                        break
                except TimeoutError:
                    continue
            else:
                return
    except OSError:
        pass
    ended.append(opening)


def slow(address):
    """Half of them never end their headers, the others never end their body."""
    openings = [f"{GET}X-A: ", f"{POST}Content-Length: 100000\r\n\r\n"]
    ended, codes = [], []
    threads = [
        threading.Thread(target=drip, args=(address, openings[number % 2].encode(), SLOW_SECONDS, ended))
        for number in range(SLOW_CLIENTS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(3)
    connected = threading.active_count() - 1 - len(ended)
    for _ in range(30):
        codes += ask(address, f"GET /health HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n")
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return {"connected": connected, "codes": codes, "headers ended": ended.count(openings[0].encode())}


if __name__ == "__main__":
    print(json.dumps({"malformed": malformed, "slow": slow}[sys.argv[1]](sys.argv[2])))
