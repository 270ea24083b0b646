"""Choosing TCP ports on the loopback interface."""

import contextlib
import random
import socket
import time
from pathlib import Path

_LOWEST = 15_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen on `port` of `host` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT from an earlier run must not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None) -> int:
    """Choose a port: `preferred` when it is free, else a random free one.

    The port lies below the kernel's ephemeral range. Inside that range the kernel may give it to
    any outgoing connection while the server is down, and a client that keeps reconnecting to it
    may even end up connected to itself.
    """
    if preferred is not None and is_free(preferred):
        return preferred
    highest = 32_000
    with contextlib.suppress(OSError, ValueError, IndexError):
        start = int(_EPHEMERAL_RANGE.read_text().split()[0])
        if start > _LOWEST + 1_000:
            highest = start - 1
    for _ in range(1_000):
        port = random.randint(_LOWEST, highest)
        if is_free(port):
            return port
    raise OSError(f"no free port between {_LOWEST} and {highest}")


def accepts_connections(port: int, timeout: float = 1.0) -> bool:
    """Tell whether something listens on `port` of the loopback interface."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout):
            return True
    except OSError:
        return False


def wait_until_listening(port: int, deadline: float) -> bool:
    """Wait until `port` accepts connections; False when `deadline` (monotonic) passes first."""
    while not accepts_connections(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
