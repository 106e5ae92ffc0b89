"""The key of the servers that stay: what the page asks for, and that nobody else gets it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.flows.servers.attacks import assert_only_the_key_opens, keep_secret

pytestmark = pytest.mark.e2e


def test_page_asks_for_the_key_and_takes_no_other(
    site: Any, browser: Browser, sign_in: Callable[[Page, str], None]
) -> None:
    page = browser.new_page()
    page.goto(f"{site.prefect}/deployments")
    sign_in(page, "admin:guessed")
    expect(page.get_by_text("Authentication failed").first).to_be_visible()
    page.reload()
    sign_in(page, site.key)
    expect(page.get_by_role("link", name="nightly", exact=True).first).to_be_visible()
    page.close()


def test_page_by_the_name_localhost_works_too(
    site: Any, browser: Browser, sign_in: Callable[[Page, str], None]
) -> None:
    page = browser.new_page()
    page.goto(f"{site.prefect.replace('127.0.0.1', 'localhost')}/deployments")
    sign_in(page, site.key)
    expect(page.get_by_role("link", name="nightly", exact=True).first).to_be_visible()
    page.close()


def test_server_of_up_answers_nobody_without_the_key(site: Any) -> None:
    from prefect.settings import temporary_settings

    with temporary_settings(site.api.settings()):
        keep_secret()
    assert_only_the_key_opens(site.api.url, site.key)


@pytest.mark.parametrize("command", ["deploy", "run"])
def test_command_without_the_key_says_what_is_missing(
    command: str, site: Any, configs: dict[str, str], tmp_path: Path
) -> None:
    site.environment |= {"RATCHET_RUNS": str(tmp_path), "PREFECT_API_URL": site.api.url}
    try:
        told = site.ratchet(command, *([configs["quick"]] if command == "run" else []), code=2)
    finally:
        site.environment |= {"RATCHET_RUNS": str(site.runs)}
        del site.environment["PREFECT_API_URL"]
    assert f"the Prefect server at {site.api.url} refuses access: set PREFECT_API_AUTH_STRING to its key" in told
    assert "Traceback" not in told


def test_up_says_how_to_sign_in_and_shows_no_key(site: Any) -> None:
    told = site.ratchet("up")
    assert f"cat {site.runs / '.services' / 'prefect-key'}" in told
    assert site.key not in told


def test_key_lies_in_its_file_alone(site: Any) -> None:
    secret = site.key.removeprefix("admin:").encode()
    holders = [path for path in site.place.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert holders == [site.runs / ".services" / "prefect-key"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    assert holders[0].parent.stat().st_mode & 0o777 == 0o700
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert len(lines) > 1
    assert not [line for line in lines if secret.decode() in " ".join(line)]
