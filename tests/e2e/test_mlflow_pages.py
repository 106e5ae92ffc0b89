"""The pages of MLflow that people look at, after a campaign that the command line ran while the servers were up."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from components.artifacts import read_json
from components.tracking.views import compare_url, experiment_url

pytestmark = pytest.mark.e2e
CAMPAIGN = "compared"


@pytest.fixture(scope="module")
def tracked(site: Any, configs: dict[str, str]) -> list[dict[str, Any]]:
    """Run a campaign of two rounds, and return the experiment and run in which MLflow has each."""
    site.ratchet("run", configs["quick"], "--campaign", CAMPAIGN)
    return [read_json(path) for path in sorted((site.runs / CAMPAIGN).glob("round-*/tracking.json"))]


def test_experiment_shows_the_rounds_side_by_side(
    site: Any, tracked: list[dict[str, Any]], page: Page, picture: Callable[[str], None]
) -> None:
    page.goto(experiment_url(site.mlflow, tracked[0]["experiment_id"]))
    for name in ("round 001", "round 002", "campaign"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    expect(page.get_by_text("win_rate_vs_start").first).to_be_visible()
    picture("mlflow-experiment")


def test_compare_page_sets_two_rounds_side_by_side(
    site: Any, tracked: list[dict[str, Any]], page: Page, picture: Callable[[str], None]
) -> None:
    page.goto(compare_url(site.mlflow, tracked[0]["experiment_id"], [one["run_id"] for one in tracked]))
    expect(page.get_by_text("Comparing 2 Runs").first).to_be_visible()
    for name in ("round 001", "round 002"):
        expect(page.get_by_text(name).first).to_be_visible()
    picture("mlflow-compare")


def test_registered_champion_opens_with_its_alias_and_card(
    site: Any, tracked: list[dict[str, Any]], page: Page, picture: Callable[[str], None]
) -> None:
    champion = read_json(site.runs / CAMPAIGN / "campaign.json")["champion"]["round"]
    page.goto(f"{site.mlflow}/#/models/{CAMPAIGN}")
    expect(page.get_by_text("challenger").first).to_be_visible()
    picture("mlflow-model")
    version = tracked[champion - 1 if champion else -1]["model_version"]
    page.goto(f"{site.mlflow}/#/models/{CAMPAIGN}/versions/{version}")
    expect(page.get_by_text("policy_digest").first).to_be_visible()
    if champion:
        expect(page.get_by_text("champion", exact=False).first).to_be_visible()
    picture("mlflow-version")


def test_rounds_of_the_command_line_stand_on_the_same_prefect_page(
    site: Any, tracked: list[dict[str, Any]], page: Page
) -> None:
    page.goto(f"{site.prefect}/runs")
    for name in (f"{CAMPAIGN}-rounds-001-002", f"{CAMPAIGN}-round-002"):
        expect(page.get_by_text(name).first).to_be_visible()
