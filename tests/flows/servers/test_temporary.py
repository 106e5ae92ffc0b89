"""Servers that live as long as a command: their first start, and why they do not start."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from components.records import ServiceFailed
from flows.servers import temporary
from flows.servers.key import explaining_refusal
from flows.servers.prefect_app import prefect_command


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Prefect home that no server has used."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_DATABASE_CONNECTION_URL", raising=False)
    with temporary_settings(restore_defaults={PREFECT_API_URL, PREFECT_API_AUTH_STRING}):
        yield tmp_path / "prefect"


@pytest.mark.timeout(900)
def test_two_first_starts_on_one_home_both_come_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "STARTUP_SECONDS", 600)  # a machine that tests keep busy
    # Two servers that create the tables of one database at once: one of them ended with "table ... already exists".
    failures: list[BaseException] = []
    both_up = threading.Barrier(2, timeout=600)

    def start() -> None:
        try:
            with temporary._own_server(lambda: None) as api:
                assert api.key is not None
                user, _, password = api.key.partition(":")
                both_up.wait()
                found = httpx.post(f"{api.url}/flows/filter", json={}, auth=(user, password), timeout=120)
                assert found.status_code == 200
        except BaseException as error:
            failures.append(error)
            both_up.abort()

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (home / "prefect.db").exists()


def test_server_that_exits_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "missing" / "prefect.db"
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{nowhere}")
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{nowhere}")
    expected = r"exited with code 3 before it answered at .*unable to open database"
    with pytest.raises(ServiceFailed, match=expected), temporary._own_server(lambda: None):
        pass


def test_refusal_names_the_server_that_cannot_be_reached_without_its_password() -> None:
    url = "http://ann:s3cret@127.0.0.1:9/api"
    expected = r"the Prefect server at http://127.0.0.1:9/api cannot be reached"
    with pytest.raises(ServiceFailed, match=expected) as told, explaining_refusal(url):
        httpx.get(f"{url}/health")
    assert "s3cret" not in str(told.value)
    with pytest.raises(httpx.ConnectError), explaining_refusal(url):
        httpx.get("http://127.0.0.1:10/")


def test_command_of_the_server_does_not_look_for_our_code_where_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("raise SystemExit('not these flows')")
    monkeypatch.chdir(tmp_path)
    with temporary._own_server(lambda: None) as api:
        assert httpx.get(f"{api.url}/health", timeout=120).status_code == 200
    assert "--app-dir" in prefect_command(1, log_level="error")
