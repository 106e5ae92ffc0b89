"""Attempts on a Prefect server without its key, and what its owner can still do."""

import json
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

FOREIGN = "http://evil.example:20105"
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
    for path, body in ATTACKS:
        for auth in (None, (user, "guessed"), (user, "")):
            assert httpx.post(f"{api}{path}", json=body, auth=auth).status_code == 401, (path, auth)
        # What a page of any origin may send without asking first: a body that is not said to be JSON.
        assert httpx.post(f"{api}{path}", content=json.dumps(body), headers={"Origin": FOREIGN}).status_code == 401, (
            path
        )
    opened = httpx.post(f"{api}/block_documents/filter", json={"include_secrets": True}, auth=(user, password))
    assert opened.status_code == 200
    assert SECRET in opened.text
    assert SECRET not in httpx.post(f"{api}/block_documents/filter", json={}, auth=(user, password)).text
    for path in ("/health", "/ready"):
        assert httpx.get(f"{api}{path}").status_code == 200
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
        preflight = httpx.options(f"{api}/block_documents/filter", headers=asked)
        assert preflight.status_code == code, origin
        assert preflight.headers.get("access-control-allow-origin") == (origin if code == 200 else None)
        answer = httpx.get(f"{api}/health", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == (origin if code == 200 else None)
    for path in ("/events/in", "/events/out", "/logs/out"):
        assert not opens_socket(f"{api}{path}", "admin:guessed"), path
        assert opens_socket(f"{api}{path}", key), path


def opens_socket(url: str, key: str) -> bool:
    with connect(url.replace("http://", "ws://"), subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
        socket.send(json.dumps({"type": "auth", "token": key}))
        try:
            return bool(json.loads(socket.recv(timeout=30))["type"] == "auth_success")
        except ConnectionClosed:
            return False
