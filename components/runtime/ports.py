"""Find a TCP port for a server of our own."""

import random
import socket

import psutil

from components.runtime.addresses import LOOPBACK

BELOW_EPHEMERAL = range(20000, 32000)
"""Ports outside the kernel's range for outgoing connections: none takes a port between its choice and its use."""


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens at this moment.

    Raises:
        OSError: None of a hundred random ports is free.
    """
    for port in random.SystemRandom().sample(BELOW_EPHEMERAL, 100):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError(
        f"no free port: 100 random ports of {LOOPBACK} between {BELOW_EPHEMERAL.start} and {BELOW_EPHEMERAL.stop} "
        "are in use; stop programs that listen there"
    )


def holder(port: int) -> str:
    """Return the process that listens on a port, as `pid 12 (python)`; empty if it is another user's, or none does."""
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if listens and connection.pid:
            try:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                break
    return ""


def check_bindable(host: str, port: int) -> None:
    """Check that a server could listen on a port of an address at this moment.

    Raises:
        OSError: The address is not one of this machine, or the port is in use (`errno.EADDRINUSE`).
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        # Servers set this option too: the remains of a closed connection do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
