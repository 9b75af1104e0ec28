"""Clients at work, in the container, by its own Python: `load.py SOCKET CLIENTS DIRECTORY`.

Each client is a process that ingests objects and reads them back until DIRECTORY has a file
`stop`. What was acknowledged, and what went wrong, is appended to a file of its own.
"""

import os
import random
import sys

from dataplane_client.blocking import connect
from dataplane_protocol import UnavailableError

#: What connect(2) fails with when nobody listens.
REFUSED = (ConnectionRefusedError, FileNotFoundError)


def main(socket_path: str, clients: int, directory: str) -> None:
    children = []
    for number in range(clients):
        pid = os.fork()
        if pid == 0:
            work(socket_path, number, directory)
            os._exit(0)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    sys.exit(any(codes))


def work(socket_path: str, number: int, directory: str) -> None:
    chance = random.Random(number)
    acknowledged = []
    with (
        open(os.path.join(directory, f"client-{number}"), "a", buffering=1) as notes,
        connect(socket_path, pool_size=2) as client,
    ):
        while not os.path.exists(os.path.join(directory, "stop")):
            content = chance.randbytes(chance.choice((10, 4000, 100_000)))
            try:
                address = client.ingest_stream([content]).receipt.content_address
                acknowledged.append(address)
                print("stored", address, file=notes)
                wanted = chance.choice(acknowledged)
                body = b"".join(client.serve_object(wanted))
                print("served", wanted, len(body), file=notes)
            except UnavailableError as error:
                is_refused = isinstance(error.__cause__, REFUSED)
                print("refused" if is_refused else "again", repr(error.message), file=notes)
            except Exception as error:
                print("wrong", repr(error), file=notes)
                raise


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
