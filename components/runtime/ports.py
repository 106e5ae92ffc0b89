"""Find a TCP port of the loopback interface for a server of our own."""

import random
import socket

BELOW_EPHEMERAL = range(20000, 32000)
"""Ports outside the kernel's range for outgoing connections: none takes a port between its choice and its use."""


def free_port() -> int:
    """Return a port on which nothing listens at this moment.

    Raises:
        OSError: None of a hundred random ports is free.
    """
    for port in random.SystemRandom().sample(BELOW_EPHEMERAL, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(
        f"no free port: 100 random ports of 127.0.0.1 between {BELOW_EPHEMERAL.start} and {BELOW_EPHEMERAL.stop} "
        "are in use; stop programs that listen there"
    )


def is_free(port: int) -> bool:
    """Return whether a server could listen on a port of the loopback interface at this moment."""
    with socket.socket() as probe:
        # Servers set this option too: the remains of a closed connection do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
