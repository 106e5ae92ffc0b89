"""Find a TCP port of the loopback interface for a server of our own."""

import random
import socket

BELOW_EPHEMERAL = range(20000, 32000)
"""Ports that the kernel gives to no outgoing connection, so that none can take one between its choice and its use."""


def free_port() -> int:
    """A port that nothing listens on at this moment.

    Raises:
        OSError: None of a hundred ports was free.
    """
    for port in random.SystemRandom().sample(BELOW_EPHEMERAL, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port between {BELOW_EPHEMERAL.start} and {BELOW_EPHEMERAL.stop} is free on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of the loopback interface at this moment."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: what a past connection left behind is no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
