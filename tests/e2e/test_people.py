"""A round that waits for people, on real servers: it holds nothing while they vote, and goes on by itself."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from components.artifacts import read_json

pytestmark = pytest.mark.e2e
ENDED = ("Completed", "Failed", "Crashed", "Cancelled", "Waiting")


@pytest.fixture
def what(site: Any, configs: dict[str, str]) -> dict[str, str]:
    """The parameters of a campaign in which people decide eight pairs of its one round, half of them twice."""
    content = yaml.safe_load(Path(configs["quick"]).read_text())
    content |= {"campaign": "people", "num_rounds": 1}
    content["active"] = {"budget": 8, "judge": {"kind": "people", "people": {"overlap_share": 0.5}}}
    path = site.place / "people.yaml"
    path.write_text(yaml.safe_dump(content))
    return {"config_file": str(path), "campaign": "people"}


@contextlib.contextmanager
def annotator(site: Any, browser: Browser, name: str) -> Iterator[Page]:
    """A browser whose user has opened a personal link."""
    link = site.ratchet("label", "people", "--invite", name).splitlines()[0]
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.goto(link)
    page.get_by_role("button", name="Start comparing").click()
    expect(page.locator("#situation")).not_to_have_attribute("data-item", "")
    yield page
    context.close()


def vote(page: Page, most: int = 100) -> int:
    """Prefer the longer answer of each pair, by keyboard, until nothing is left; return the number of votes."""
    expect(page.locator("#own")).not_to_be_empty()  # before, the page hears no keys
    for number in range(most):
        item = page.locator("#situation").get_attribute("data-item")
        if not item:
            return number
        left, right = (len(text) for text in page.locator(".answer .rendered").all_inner_texts())
        page.keyboard.press("1" if left > right else "2" if right > left else "t")
        page.wait_for_function("item => document.querySelector('#situation').dataset.item !== item", arg=item)
    return most


def test_two_people_label_a_round_that_holds_no_process_and_goes_on_by_itself(
    site: Any,
    what: dict[str, str],
    browser: Browser,
    page: Page,
    picture: Callable[[str], None],
    wait_until: Callable[..., None],
) -> None:
    run = site.start("campaign", what=what)
    assert site.wait_for(run, "Suspended", *ENDED, seconds=180)["name"] == "Suspended"
    wait_until(lambda: not site.engines(), "the run to exit", 30)
    second = site.wait_for(site.start("campaign", what=what), "Skipped", *ENDED)
    assert (second["name"], "waits for people to vote on 8 of 8 pairs" in second["message"]) == ("Skipped", True)
    assert "waits for people" in site.ratchet("status", "people")
    with annotator(site, browser, "anna") as anna, annotator(site, browser, "ben") as ben:
        assert vote(anna, most=3) == 3
        anna.close()
        site.ratchet("down")
        site.ratchet("up")
        shown = {"artifacts": {"key": {"like_": "%-people"}}, "sort": "CREATED_DESC"}
        wait_until(lambda: "labelled](" in site.ask("/artifacts/filter", shown)[0]["description"], "the artifact", 30)
        page.goto(f"{site.prefect}/runs/flow-run/{run}")
        page.get_by_text("Artifacts", exact=True).first.click()
        expect(page.get_by_role("link", name=re.compile("of 8 pairs labelled")).first).to_be_visible()
        picture("waiting-for-people")
        page.goto("about:blank")
        again = anna.context.new_page()
        again.goto(f"{site.labelling}/c/people/")
        expect(again.locator("#situation")).to_have_attribute("data-judged", "3")
        by_anna = 3 + vote(again)
        by_ben = vote(ben)
        assert by_anna + by_ben >= 8
        assert by_anna <= 8
    site.wait_for(run, *ENDED, seconds=180)
    assert site.state(run)["name"] == "Completed", site.state(run)
    campaign = site.runs / "people"
    (record,) = read_json(campaign / "campaign.json")["rounds"]
    assert (record["people"]["labelled"], record["people"]["annotators"]) == (8, 2)
    assert record["people"]["agreement"]["value"] == 1.0, "both prefer the longer answer"
    assert list(record["people"]["judges"]) == ["rule:support_reply"]
    assert not (campaign / "waiting.json").exists()
    page.goto((campaign / "report.html").as_uri())
    expect(page.get_by_role("heading", name="People, and the judges beside them")).to_be_visible()
    page.get_by_role("heading", name="People, and the judges beside them").scroll_into_view_if_needed()
    picture("people-in-the-report")
