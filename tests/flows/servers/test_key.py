"""Who may use a Prefect server that we start, and where its key is stored."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.prefect_page.deploy import ensure_work_pool
from flows.servers.key import PrefectApi, ensure_key, key_file, read_key
from flows.servers.temporary import prefect_server
from tests.flows.servers.attacks import assert_only_the_key_opens, keep_secret


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_key_is_for_its_owner_alone_and_stays_the_same(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / ".services"
    directory.mkdir(parents=True, mode=0o755)  # as an earlier version left it
    key = ensure_key(directory)
    assert key_file(directory).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    user, _, password = key.partition(":")
    assert user == "admin"
    assert len(password) >= 43  # 256 bits
    assert ensure_key(directory) == read_key(directory) == key
    assert ensure_key(tmp_path / "other") != key
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o700


def test_key_is_absent_before_the_first_start(tmp_path: Path) -> None:
    assert read_key(tmp_path) is None


@pytest.mark.parametrize(
    ("mode", "content", "message"), [(0o640, "admin:x", "can be read by other users"), (0o600, "\n", "is empty")]
)
def test_key_that_is_no_secret_is_refused(mode: int, content: str, message: str, tmp_path: Path) -> None:
    key_file(tmp_path).write_text(content)
    key_file(tmp_path).chmod(mode)
    with pytest.raises(ValueError, match=message):
        ensure_key(tmp_path)


def test_key_is_not_in_what_is_printed_of_an_address() -> None:
    assert "admin:secret" not in repr(PrefectApi("http://127.0.0.1:9/api", "admin:secret"))


def test_temporary_server_answers_its_own_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "*")
    monkeypatch.setenv("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "*")
    with temporary_settings(restore_defaults={PREFECT_API_URL, PREFECT_API_AUTH_STRING}), prefect_server() as url:
        key = PREFECT_API_AUTH_STRING.value()
        assert key
        keep_secret()
        assert_only_the_key_opens(url, key)
        lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        assert len(lines) > 1
        assert not [line for line in lines if key in " ".join(line)]
        with temporary_settings({PREFECT_API_AUTH_STRING: "admin:other"}):
            with pytest.raises(
                ValueError, match=f"the Prefect server at {url} refuses access: set PREFECT_API_AUTH_STRING"
            ):
                ensure_work_pool(PrefectApi(url))
            with pytest.raises(ValueError, match=f"the Prefect server at {url} refuses access"), prefect_server():
                keep_secret()


@pytest.mark.parametrize(
    ("configured", "expected", "key"),
    [
        ("http://127.0.0.1:9/api", "http://127.0.0.1:9/api", "admin:mine"),
        ("http://localhost:8/api/", "http://127.0.0.1:8/api", "admin:ours"),
        ("http://127.0.0.1:8/api", "http://127.0.0.1:8/api", "admin:ours"),
    ],
)
def test_key_of_ours_goes_to_our_server_alone(configured: str, expected: str, key: str) -> None:
    ours = PrefectApi("http://127.0.0.1:8/api", "admin:ours")
    with (
        temporary_settings({PREFECT_API_URL: configured, PREFECT_API_AUTH_STRING: "admin:mine"}),
        prefect_server(ours) as url,
    ):
        assert url == expected
        assert PREFECT_API_AUTH_STRING.value() == key
    assert PrefectApi(configured).environment() == {"PREFECT_API_URL": configured}
