from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from components.web.guard import HEADERS, Guard


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body(), headers={"cache-control": "max-age=60"})


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/", echo, methods=["GET", "POST"])])
    return TestClient(
        Guard(app, hosts=["labels.example", "::1"], max_body_bytes=10), base_url="http://labels.example:80"
    )


def test_request_for_a_known_host_gets_the_headers(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "max-age=60"
    for name, value in HEADERS.items():
        if name != b"cache-control":
            assert response.headers[name.decode()] == value.decode()


@pytest.mark.parametrize("host", ["LABELS.example:4300", "[::1]:4300", "[::1]"])
def test_host_is_known_with_a_port_and_in_any_case(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "labels.example.evil.example", "", "127.0.0.1"])
def test_foreign_host_is_refused(client: TestClient, host: str) -> None:
    response = client.get("/", headers={"host": host})
    assert response.status_code == 421
    assert response.headers["x-content-type-options"] == "nosniff"


def test_body_that_declares_too_much_is_refused(client: TestClient) -> None:
    assert client.post("/", content=b"x" * 10).text == "x" * 10
    assert client.post("/", content=b"x" * 11).status_code == 413


def test_body_that_declares_no_size_is_refused_when_it_is_too_large(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 6] * 2

    assert client.post("/", content=chunks()).status_code == 413
