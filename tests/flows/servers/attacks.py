"""Attempts on a Prefect server without its key, and what its owner can still do."""

import json
import re
import socket
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

SECONDS = 120
"""A busy machine answers late."""
FOREIGN = "http://evil.example:20105"
FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example:{port}",
    "localhost.",
    "10.0.0.1:{port}",
    "",
)
OPEN_ROUTES = {("GET", "/health"), ("GET", "/ready")}
PAGES = ("/", "/runs", "/ui-settings", "/assets/x.js", "/docs", "/openapi.json", "/api/docs", "/api/openapi.json")
SECRET = "sk-judge-0123456789"
SHELL = {"prefect.deployments.steps.run_shell_script": {"script": "id > pwned"}}
ATTACKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/flows/", {"name": "attack"}),
    ("/deployments/", {"name": "attack", "flow_id": "0" * 32, "work_pool_name": "ratchet", "pull_steps": [SHELL]}),
    ("/block_documents/filter", {"include_secrets": True}),
    ("/work_pools/", {"name": "attack", "type": "process"}),
)


def keep_secret() -> None:
    """Save a secret block, like a judge's key, on the server of the present settings."""
    from prefect.blocks.system import Secret

    Secret(value=SECRET).save("judge", overwrite=True, _sync=True)  # a browser's loop may run in this thread


def assert_only_the_key_opens(api: str, key: str) -> None:
    """Check that every attack is refused, that the key opens the same, and that no foreign page may read an answer."""
    user, _, password = key.partition(":")
    with httpx.Client(timeout=SECONDS, trust_env=False) as client:
        for path, body in ATTACKS:
            for auth in (None, (user, "guessed"), (user, "")):
                assert client.post(f"{api}{path}", json=body, auth=auth).status_code == 401, (path, auth)
            # What a page of any origin may send without asking first: a body that is not said to be JSON.
            assert (
                client.post(f"{api}{path}", content=json.dumps(body), headers={"Origin": FOREIGN}).status_code == 401
            ), path
        opened = client.post(f"{api}/block_documents/filter", json={"include_secrets": True}, auth=(user, password))
        assert opened.status_code == 200
        assert SECRET in opened.text
        assert SECRET not in client.post(f"{api}/block_documents/filter", json={}, auth=(user, password)).text
        for path in ("/health", "/ready"):
            assert client.get(f"{api}{path}").status_code == 200
        own = api.removesuffix("/api")
        for origin, code in (
            (own, 200),
            (own.replace("127.0.0.1", "localhost"), 200),
            (FOREIGN, 400),
            (f"{own}0", 400),
            ("null", 400),
        ):
            asked = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            }
            preflight = client.options(f"{api}/block_documents/filter", headers=asked)
            assert preflight.status_code == code, origin
            assert preflight.headers.get("access-control-allow-origin") == (origin if code == 200 else None)
            answer = client.get(f"{api}/health", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == (origin if code == 200 else None)
    assert_every_route_is_locked(api, key)
    for path in ("/events/in", "/events/out", "/logs/out"):
        assert opens_socket(f"{api}{path}", key), path
    paths = socket_paths()
    assert {"/events/in", "/events/out", "/logs/out"} <= set(paths)
    for path in paths:
        assert not opens_socket(f"{api}{path}", "admin:guessed"), path
        with pytest.raises(InvalidStatus, match="HTTP 403"):
            opens_socket(f"{api}{path}", key, host="evil.example")


def assert_every_route_is_locked(api: str, key: str) -> None:
    """Check that no route of the server's own description answers without the key, or to a page of another host."""
    user, _, password = key.partition(":")
    own, port = api.removesuffix("/api"), api.removesuffix("/api").rpartition(":")[2]
    description = httpx.get(f"{api}/openapi.json", auth=(user, password), timeout=SECONDS, trust_env=False).json()
    routes = [
        (method.upper(), re.sub(r"\{\w+\}", "00000000-0000-4000-8000-000000000000", path))
        for path, methods in description["paths"].items()
        for method in methods
    ]
    assert len(routes) > 150
    with httpx.Client(timeout=SECONDS, trust_env=False) as client:
        for method, path in routes:
            code = client.request(method, f"{api}{path}", json={}).status_code
            assert code == (200 if (method, path) in OPEN_ROUTES else 401), (method, path)
            foreign = client.request(
                method, f"{api}{path}", json={}, headers={"Host": "evil.example"}, auth=(user, password)
            )
            assert foreign.status_code == 403, (method, path)
        for host in FOREIGN_HOSTS:
            for page in PAGES:
                refused = client.get(f"{own}{page}", headers={"Host": host.format(port=port)})
                assert refused.status_code == 403, (host, page)
        for host in ("localhost", f"localhost:{port}", "127.0.0.1:9", "[::1]", f"[::1]:{port}", f"LOCALHOST:{port}"):
            assert client.get(f"{own}/", headers={"Host": host}).status_code == 200, host


def socket_paths() -> list[str]:
    """Return the paths of all WebSocket routes of Prefect's API."""
    from fastapi.routing import APIWebSocketRoute
    from prefect.server.api.server import API_ROUTERS

    routes = [route for router in API_ROUTERS for route in router.routes if isinstance(route, APIWebSocketRoute)]
    return [re.sub(r"\{\w+\}", "ratchet", route.path) for route in routes]


def opens_socket(url: str, key: str, host: str = "127.0.0.1") -> bool:
    port = httpx.URL(url).port
    assert port is not None
    address = url.replace("http://127.0.0.1", f"ws://{host}")
    connection = socket.create_connection(("127.0.0.1", port))
    with (
        connection,
        connect(address, sock=connection, subprotocols=["prefect"], proxy=None, open_timeout=SECONDS) as opened,
    ):  # type: ignore[list-item]
        opened.send(json.dumps({"type": "auth", "token": key}))
        try:
            return bool(json.loads(opened.recv(timeout=SECONDS))["type"] == "auth_success")
        except ConnectionClosed:
            return False
