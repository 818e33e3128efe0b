"""What the Python scripts share: the list of cases, the names a case may use, and the run itself.

A script registers its cases with `@case(3, 4, 5)`, the protocol levels it is for (3 is MQTT 3.1), and ends
with `main(...)`. Each case gets a `Spot`: where the broker is, and names of its own, so that all cases run
at once against one broker. The command line is HOST PORT LEVEL, then
mqtt, ws, mqtts or wss and the file of the CA. A line is printed for each case, then the sums; the exit status is 1 when a case
failed or when there was none.
"""

import asyncio
import os
import secrets
import socket
import sys
import time
import traceback

CASE_SECONDS_MAX = 240
WAIT_SECONDS = 60

_cases = []


def case(*levels):
    """Registers the decorated function for these protocol levels."""

    def register(function):
        _cases.append((levels, function))
        return function

    return register


class Spot:
    """One case's place: the broker, the protocol level, topics and client identifiers nobody else uses."""

    def __init__(self, host, port, level, scheme, ca, name):
        self.host, self.port, self.level = host, port, level
        # As paho names what MQTT goes over; the CA is None without TLS.
        self.transport = "websockets" if scheme in ("ws", "wss") else "tcp"
        self.ca = ca if scheme in ("mqtts", "wss") else None
        self.name = name
        self.run = secrets.token_hex(4)

    def topic(self, rest):
        return f"clients/{self.run}/{rest}"

    def client(self, who):
        """At most 23 characters, the limit of MQTT 3.1."""
        return f"{self.run}-{who}"[:23]


def cut(connection):
    """Ends a connection below whatever paho has put upon its socket: WebSocket, TLS."""
    with socket.socket(fileno=os.dup(connection.fileno())) as below:
        below.shutdown(socket.SHUT_RDWR)


def equal(got, wanted, what):
    assert got == wanted, f"{what}: got {short(got)}, wanted {short(wanted)}"


def short(value, limit=300):
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def binary(length):
    """A payload in which every byte value comes, and no two neighbouring kilobytes are alike."""
    return bytes((i * 7 + i // 1024) % 256 for i in range(length))


def main(run_case):
    """Runs `await run_case(function, spot)` for each case of the level on the command line."""
    level, scheme, ca = int(sys.argv[3]), *(sys.argv[4:] or ("mqtt", None))
    place = (sys.argv[1], int(sys.argv[2]), level, scheme, ca)
    chosen = [function for levels, function in _cases if level in levels]
    failed = asyncio.run(_run_all(run_case, chosen, place))
    print(f"{len(chosen) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not chosen else 0)


async def _run_all(run_case, chosen, place):
    async def one(function):
        spot = Spot(*place, function.__name__)
        start = time.monotonic()
        try:
            await asyncio.wait_for(run_case(function, spot), CASE_SECONDS_MAX)
            print(f"ok {spot.name} ({time.monotonic() - start:.2f} s)", flush=True)
            return 0
        except BaseException as error:  # a case must never end the others
            cause = str(error) or f"{type(error).__name__} after {time.monotonic() - start:.1f} s"
            print(f"FAILED {spot.name} [{spot.run}]: {cause}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc(file=sys.stdout)
            return 1

    return sum(await asyncio.gather(*(one(function) for function in chosen)))
