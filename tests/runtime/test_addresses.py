"""Addresses: what leads to this machine, what no proxy gets, and what is shown of them."""

import os
import urllib.request

import httpx
import pytest

from components.runtime.addresses import is_loopback, keep_loopback_off_proxies, without_password


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("https://127.8.9.1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://LOCALHOST:1/v1", True),
        ("http://judge.localhost/v1", True),
        ("http://judge.example/v1", False),
        ("http://10.0.0.1/v1", False),
        ("http://127.0.0.1.evil.example/v1", False),
        ("http://localhost.evil.example", False),
        ("", False),
    ],
)
def test_is_loopback_by_the_host_alone(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:////srv/runs/mlflow.db", "sqlite:////srv/runs/mlflow.db"),
        ("http://ann:s3cret@tracking:5000/a?b=c", "http://tracking:5000/a?b=c"),
        ("postgresql+psycopg2://ann:s3cret@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        # SQLAlchemy takes these too.
        ("postgresql://ann:s3/cr#et?@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("postgresql://ann:s3@cret@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://db/mlflow?user=ann&password=s3cret", "postgresql://db/mlflow"),
        ("http://ann@tracking:5000", "http://tracking:5000"),
        ("http://tracking:5000/experiments", "http://tracking:5000/experiments"),
    ],
)
def test_without_password_shows_the_rest(uri: str, expected: str) -> None:
    assert without_password(uri) == expected


@pytest.fixture(autouse=True)
def no_proxy_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for form in (name, name.upper()):
            monkeypatch.setenv(form, "")  # so that monkeypatch restores what the function sets
            monkeypatch.delenv(form)


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "listed", [{}, {"NO_PROXY": "judge.example"}, {"no_proxy": " a.example, judge.example "}, {"NO_PROXY": ""}]
)
def test_loopback_is_off_every_proxy_and_what_was_listed_stays(
    proxy: str, listed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {proxy: "http://127.0.0.1:9", **listed}.items():
        monkeypatch.setenv(name, value)
    keep_loopback_off_proxies()
    keep_loopback_off_proxies()  # again: a command's child is a command too
    wanted = dict.fromkeys(("127.0.0.1", "localhost"), True) | {
        "judge.example": bool(listed.get("NO_PROXY", listed.get("no_proxy"))),
        "other.example": False,
    }
    for host, bypassed in wanted.items():
        assert bool(urllib.request.proxy_bypass(host)) is bypassed, host
        with httpx.Client() as client:
            own = client._transport_for_url(httpx.URL(f"http://{host}:8000/")) is client._transport
        assert own is bypassed, host
    with httpx.Client() as client:
        assert client._transport_for_url(httpx.URL("http://[::1]:8000/")) is client._transport
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]


def test_everything_off_the_proxies_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    keep_loopback_off_proxies()
    assert os.environ["NO_PROXY"] == "*"
    assert "no_proxy" not in os.environ
