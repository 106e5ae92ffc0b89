"""The pages by HTTP, in this process."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from components.labelling import app as app_module
from components.labelling.app import create_app
from components.labelling.database import opened
from components.labelling.invitations import invite, revoke
from components.labelling.progress import read_progress
from components.labelling.task import Task, read_votes, write_task
from tests.labelling.serving import Person
from tests.labelling.tasks import make_item, make_task

BASE = "http://127.0.0.1:4300"


@pytest.fixture
def task(campaign: Path) -> Task:
    task = make_task(num_items=6)
    write_task(campaign, task)
    return task


@pytest.fixture
def link(campaign: Path, task: Task) -> Callable[..., str]:
    """A function that invites somebody and returns the path of the link."""

    def invited(name: str, *, days: float = 7) -> str:
        with opened(campaign) as database:
            return f"/join/demo.{invite(database, name, days=days, now=datetime.now(UTC))}"

    return invited


@pytest.fixture
def browser(campaign: Path) -> Iterator[Callable[..., TestClient]]:
    """A function that returns a browser with cookies of its own, of one application."""
    application = create_app(campaign.parent, hosts=["127.0.0.1"], url=BASE)
    with TestClient(application, base_url=BASE):
        yield lambda base=BASE: TestClient(application, base_url=base, follow_redirects=False)


@pytest.fixture
def ann(browser: Callable[..., TestClient], link: Callable[..., str]) -> Person:
    person = Person(browser())
    person.join(link("ann"))
    return person


def test_annotator_judges_all_and_the_votes_are_published(
    ann: Person, campaign: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = iter(("left", "right", "tie", "both_bad", "left", "left"))
    while ann.state == "item":
        ann.vote(next(choices))
    assert ann.state in ("nothing", "closed")
    app_module.close_due(campaign, datetime.now(UTC))
    votes = read_votes(campaign / "labelling" / task.task)
    assert votes is not None
    assert len(votes.votes) == 6
    assert {vote.annotator for vote in votes.votes} == {"ann"}
    ann.read(ann.client.get("/c/demo/item"))
    assert ann.state == "closed"


def test_server_closes_what_is_due_and_ticks_after_an_error(
    campaign: Path, task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app_module, "TICK_SECONDS", 0.02)
    closed = make_task(num_items=1, task="round-000-cccccccccccc", deadline="2026-01-01T00:00:00+00:00")
    directory = write_task(campaign, closed)
    counts = {"failing": 0, "next": 0}
    done = app_module.threading.Event()

    def failing() -> None:
        counts["failing"] += 1
        raise RuntimeError("the first tick fails")

    def following() -> None:
        counts["next"] += 1
        if counts["next"] > 2:
            done.set()

    with app_module.ticking(campaign.parent, [failing, following]):
        assert done.wait(30)
    assert read_votes(directory) is not None
    assert counts["failing"] > 2
    assert ["the first tick fails" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("damaged", ["task.json", "votes.json", "labels.sqlite"])
def test_campaign_with_a_damaged_file_does_not_keep_the_others_waiting_nor_fill_the_log(
    tmp_path: Path, damaged: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app_module, "TICK_SECONDS", 0.02)
    overdue = make_task(num_items=1, deadline="2026-01-01T00:00:00+00:00")
    broken, whole = (write_task(tmp_path / name, overdue) for name in ("a", "b"))
    (broken.parent if damaged == "labels.sqlite" else broken).joinpath(damaged).write_text('{"cut')
    enough, ticks = app_module.threading.Event(), iter(range(20))
    with app_module.ticking(tmp_path, [lambda: enough.set() if next(ticks, 20) > 10 else None]):
        assert enough.wait(30)
    assert read_votes(whole) is not None
    assert ["campaign a" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("removed", ["labels.sqlite", "labels.sqlite*"])
def test_votes_after_the_database_was_removed_are_kept_in_a_new_one(
    browser: Callable[..., TestClient], link: Callable[..., str], campaign: Path, removed: str
) -> None:
    before = Person(browser())
    before.join(link("ann"))
    before.vote()
    for path in (campaign / "labelling").glob(removed):
        path.unlink()
    assert before.client.get("/c/demo/").status_code == 401, "the session ended with the links"
    after = Person(browser())
    after.join(link("ann"))
    after.vote()
    assert [told.votes for told in read_progress(campaign)] == [1]


def test_page_shows_neither_which_answer_is_first_nor_what_is_gold(
    browser: Callable[..., TestClient], link: Callable[..., str], campaign: Path
) -> None:
    items = (make_item(1, first="Alpha.", second="Beta."), make_item(2, gold="first", first="Alpha.", second="Beta."))
    write_task(campaign, make_task(num_items=1, items=items, quota=1, gold_share=1.0, task="round-000-aaaaaaaaaaaa"))
    person = Person(browser())
    person.join(link("ann"))
    pages = []
    for _ in range(2):
        pages.append(person.client.get("/c/demo/").text)
        person.vote()
    questions = [re.findall(r"Question \d of \w+", page)[0] for page in pages]
    assert questions == ["Question 2 of gold", "Question 1 of data"]
    for page, question in zip(pages, questions, strict=True):
        assert not re.search(r"gold|\bfirst\b|\bsecond\b", page.replace(question, ""))


def test_page_keeps_nothing_in_caches_and_runs_our_files_alone(ann: Person) -> None:
    answer = ann.client.get("/c/demo/")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.search(r"<script(?! type=\"module\" src=\"/static/)", answer.text)
    assert not re.search(r"\son\w+=|style=|https?://", answer.text)
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert ann.client.get(name).status_code == 200


def test_answers_are_shown_as_text_whatever_they_hold(
    browser: Callable[..., TestClient], link: Callable[..., str], campaign: Path
) -> None:
    attack = "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J\u202e{{ 7*7 }}"
    messages = [
        {"role": "<b>system</b>", "content": attack},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": attack, "arguments": attack}}]},
    ]
    item = make_item(0, first=attack, second=attack + "2").model_copy(update={"messages": messages})
    write_task(campaign, make_task(num_items=1, items=(item,), rubric=attack, task="round-000-aaaaaaaaaaaa"))
    person = Person(browser())
    person.join(link("ann"))
    text = person.client.get("/c/demo/").text
    assert text.count("<script") == 1
    assert text.count("</script>") == 1
    assert "<img" not in text
    assert "<b>" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "{{ 7*7 }}" in text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("vote", {"vote_id": str(uuid4()), "task": "t", "item_id": "i", "choice": "tie", "seconds": 1, "flag": None}),
        ("undo", {"event_id": str(uuid4()), "task": "t"}),
        ("alive", {"task": "t", "item_id": "i"}),
    ],
)
@pytest.mark.parametrize("token", [None, "", "forged", "other"])
def test_post_without_the_token_of_the_browsers_pages_is_refused(
    path: str, body: dict[str, Any], token: str | None, ann: Person, browser: Any, link: Any
) -> None:
    bob = Person(browser())
    bob.join(link("bob"))
    assert ann.post(path, body).status_code in (200, 204)
    headers = {} if token is None else {"x-csrf-token": bob.csrf if token == "other" else token}
    assert ann.client.post(f"/c/demo/{path}", json=body, headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["", "item"])
def test_page_without_a_session_is_refused(path: str, browser: Any, task: Task) -> None:
    answer = browser().get(f"/c/demo/{path}")
    assert answer.status_code == 401
    assert "Question" not in answer.text


def test_revoked_link_ends_the_session(ann: Person, campaign: Path) -> None:
    with opened(campaign) as database:
        revoke(database, "ann", now=datetime.now(UTC))
    assert ann.post("vote", ann.ballot()).status_code == 401


def test_session_of_one_campaign_opens_no_other(ann: Person, campaign: Path) -> None:
    write_task(campaign.parent / "other", make_task(num_items=1, campaign="other"))
    assert ann.client.get("/c/other/").status_code == 401
    stolen = ann.client.cookies.get("ratchet_session", path="/c/demo/")
    ann.client.cookies.set("ratchet_session", stolen, path="/c/other/")
    assert ann.client.get("/c/other/").status_code == 401


@pytest.mark.parametrize("path", ["/c/absent/", "/c/..%2Fdemo/", "/c/.services/", "/static/app.py", "/docs"])
def test_address_of_nothing_of_ours_is_refused(path: str, browser: Any, task: Task) -> None:
    assert browser().get(path).status_code in (401, 404)


@pytest.mark.parametrize("days", [-1.0, None])
def test_link_that_does_not_open_says_why(days: float | None, browser: Any, link: Any) -> None:
    path = "/join/demo.unknown" if days is None else link("late", days=days)
    answer = browser().get(path)
    assert answer.status_code == (404 if days is None else 410)
    assert ("does not exist" if days is None else "has expired") in answer.text
    assert "ratchet_browser" not in answer.headers.get("set-cookie", "")


def test_link_needs_the_button_and_opens_in_one_browser(browser: Any, link: Any) -> None:
    path = link("ann")
    for _ in range(3):  # previews
        assert browser().get(path).status_code == 200
    assert browser().post(path, data={"csrf": "x"}).status_code == 403
    person = Person(browser())
    person.join(path)
    person.join(path)
    assert browser().get(path).status_code == 409


def test_cookies_are_hidden_from_scripts_and_secure_behind_https(campaign: Path, link: Any) -> None:
    application = create_app(campaign.parent, hosts=["labels.example"], url="https://labels.example")
    client = TestClient(application, base_url="https://labels.example", follow_redirects=False)
    path = link("ann")
    answer = client.get(path)
    csrf = re.search(r'value="([^"]+)"', answer.text)
    assert csrf is not None
    joined = client.post(path, data={"csrf": csrf[1]})
    for cookie in (answer.headers["set-cookie"], joined.headers["set-cookie"]):
        assert {"HttpOnly", "Secure", "SameSite=lax"} <= set(cookie.split("; "))
    assert "Path=/c/demo/" in joined.headers["set-cookie"]


def test_foreign_host_gets_nothing(browser: Any, task: Task) -> None:
    assert browser("http://evil.example").get("/c/demo/").status_code == 421


def test_large_body_is_refused(ann: Person) -> None:
    assert ann.post("vote", ann.ballot() | {"flag": "x" * 40_000}).status_code == 413


@pytest.mark.parametrize(
    "change",
    [{"choice": "first"}, {"seconds": -1}, {"seconds": 1e9}, {"vote_id": "x"}, {"flag": "x" * 2001}, {"more": 1}],
)
def test_malformed_vote_is_refused_and_not_echoed(change: dict[str, Any], ann: Person) -> None:
    answer = ann.post("vote", ann.ballot() | change)
    assert answer.status_code == 422
    assert "out of date" in answer.text


def test_annotator_who_asks_too_often_is_slowed_down(ann: Person) -> None:
    statuses = [ann.client.get("/c/demo/item").status_code for _ in range(60)]
    assert statuses[0] == 200
    assert statuses[-1] == 429


def test_links_cannot_be_guessed_quickly(browser: Any, task: Task) -> None:
    statuses = [browser().get(f"/join/demo.guess{number}").status_code for number in range(130)]
    assert statuses[0] == 404
    assert statuses[-1] == 429


def test_two_tabs_with_one_item_give_one_vote(ann: Person, campaign: Path) -> None:
    tab = Person(ann.client, csrf=ann.csrf)
    tab.read(ann.client.get("/c/demo/item"))
    assert tab.item == ann.item
    ann.vote()
    tab.vote()
    assert "judged that one already" in tab.note
    assert tab.item == ann.item


def test_undo_by_http_shows_the_item_again(ann: Person) -> None:
    before = ann.item
    ann.vote()
    assert ann.item != before
    ann.read(ann.post("undo", {"event_id": str(uuid4()), "task": ann.task}))
    assert ann.item == before
    assert "taken back" in ann.note
