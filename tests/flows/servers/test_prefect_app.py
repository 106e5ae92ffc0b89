"""The door in front of Prefect's application, without Prefect."""

import asyncio
import os
from typing import Any

import pytest

from flows.servers.prefect_app import GuardedServer


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _status(*hosts: str) -> int:
    """Return the status with which a server that is also called `prefect` answers a request to hosts."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    server = GuardedServer(_application, hosts={"127.0.0.1", "prefect"}, lock=os.open(os.devnull, os.O_RDONLY))
    scope = {"type": "http", "headers": [(b"host", host.encode()) for host in hosts]}
    asyncio.run(server(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (["127.0.0.1:4200"], 200),
        (["prefect:4200"], 200),
        (["Prefect"], 200),
        (["prefect.evil.example:4200"], 403),
        (["evil.example"], 403),
        (["127.0.0.1", "evil.example"], 403),
        ([], 403),
    ],
)
def test_server_answers_only_to_its_own_names(hosts: list[str], status: int) -> None:
    assert _status(*hosts) == status
