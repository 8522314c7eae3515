"""Open many connections to the pooler at once, hold them, and print how many were let in and what others were told."""

import asyncio
import json
import struct
import sys
from collections import Counter

STARTUP = b"user\0probe\0database\0probe\0\0"


async def client(said, seconds):
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", 6432), 10)
        writer.write(struct.pack("!ii", len(STARTUP) + 8, 196608) + STARTUP)
        kind, length = struct.unpack("!ci", await asyncio.wait_for(reader.readexactly(5), 10))
        text = await reader.readexactly(length - 4)
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        said[type(error).__name__] += 1
        return
    # R: go on with your password. E: fields, of which M is the message.
    said["let in" if kind == b"R" else text.split(b"\0M")[1].split(b"\0")[0].decode()] += 1
    await asyncio.sleep(seconds if kind == b"R" else 0)
    writer.close()


async def main():
    said = Counter()
    await asyncio.gather(*(client(said, float(sys.argv[2])) for _ in range(int(sys.argv[1]))))
    print(json.dumps(said))


asyncio.run(main())
