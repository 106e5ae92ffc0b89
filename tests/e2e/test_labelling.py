"""The labelling page in a real browser against the real server, as people use it."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from components.labelling.database import looked_at
from components.labelling.task import Task, Votes, read_votes, write_task
from tests.e2e.conftest import SHOTS, wait_until
from tests.labelling.serving import LabelServer, label_server
from tests.labelling.tasks import make_item, make_task

pytestmark = pytest.mark.e2e
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}
LONG = "A paragraph that is long enough to fill a line or two of an answer on a desk.\n\n" * 30
WIDE = f"`{'x' * 200}`\n\n```\n{'y' * 200}\n```\n\n|a|b|c|d|e|f|g|h|\n|-|-|-|-|-|-|-|-|\n" + "|wwwwwwwwwwww" * 8 + "|\n"
ATTACK = (
    "<script>alert(1)</script><img src='https://evil.example/a.png' onerror='alert(1)'>\n\n"
    "![seen](https://evil.example/b.png) [run](javascript:alert(1)) <style>main{display:none}</style>\x1b[2J\u202e"
)


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """The page tries a lost connection again after 1, 2, 4 and more seconds, and the machine may be busy."""
    expect.set_options(timeout=20_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    return tmp_path / "runs"


@pytest.fixture
def task(runs: Path) -> Task:
    task = make_task(num_items=12)
    write_task(runs / "demo", task)
    return task


@pytest.fixture
def server(runs: Path) -> Iterator[LabelServer]:
    with label_server(runs) as server:
        yield server


@pytest.fixture
def enter(browser: Browser, server: LabelServer) -> Iterator[Callable[..., Page]]:
    """A function by which somebody opens their link in a browser of their own and presses its button."""
    contexts: list[BrowserContext] = []

    def entered(name: str, **options: Any) -> Page:
        contexts.append(browser.new_context(**{"viewport": DESKTOP, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.goto(server.link(name))
        page.get_by_role("button", name="Start comparing").click()
        wait_for_script(page)
        return page

    yield entered
    for context in contexts:
        context.close()


def wait_for_script(page: Page) -> None:
    """Wait until the page hears keys; before, nobody does."""
    expect(page.locator("#own")).not_to_be_empty()


def shoot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"labelling-{name}.png")


def question(page: Page) -> str:
    return page.locator(".turn").first.inner_text()


def press(page: Page, key: str) -> None:
    """Press a key that gives a vote, and wait for what follows."""
    before = page.locator("#situation").get_attribute("data-item")
    page.keyboard.press(key)
    expect(page.locator("#situation")).not_to_have_attribute("data-item", before or "")
    expect(page.locator("#desk")).to_have_attribute("aria-busy", "false")


def state(page: Page) -> str:
    return page.locator("#situation").get_attribute("data-state") or ""


def published(runs: Path, task: Task) -> Votes:
    directory = runs / "demo" / "labelling" / task.task
    wait_until(lambda: read_votes(directory) is not None, "the votes", 20)
    votes = read_votes(directory)
    assert votes is not None
    return votes


def assert_accessible(page: Page) -> None:
    result = Axe().run(page, options={"resultTypes": ["violations"]})
    assert result.violations_count == 0, result.generate_report()


def test_two_people_label_a_task_by_keyboard_with_undo_flag_and_a_closed_window(
    enter: Callable[..., Page], server: LabelServer, runs: Path, task: Task
) -> None:
    ann, bob = enter("ann"), enter("bob")
    assert question(ann) != question(bob)
    press(ann, "1")
    press(bob, "2")
    press(ann, "t")
    # Undo, and another choice.
    undone = question(ann)
    page_before = ann.locator("#own").inner_text()
    ann.keyboard.press("u")
    expect(ann.locator("#notice")).to_contain_text("taken back")
    assert question(ann) != undone
    press(ann, "b")
    expect(ann.locator("#own")).to_have_text(page_before)
    # A flag goes with the vote.
    ann.keyboard.press("f")
    ann.keyboard.type("A text in the flag: 1 t b s u")
    ann.keyboard.press("Tab")
    ann.keyboard.press("Enter")
    expect(ann.locator("#flag")).to_have_attribute("aria-pressed", "true")
    press(ann, "2")
    expect(ann.locator("#flag")).to_have_attribute("aria-pressed", "false")
    # The window is closed in the middle, and the address opened again.
    left_at = question(bob)
    context = bob.context
    bob.close()
    bob = context.new_page()
    bob.goto(f"{server.url}/c/demo/")
    wait_for_script(bob)
    assert question(bob) == left_at
    expect(bob.locator("#own")).to_have_text("1 by you")
    while state(ann) == "item" or state(bob) == "item":
        for page in (ann, bob):
            if state(page) == "item":
                press(page, "1")
            elif state(page) == "wait":
                page.wait_for_timeout(500)
    shoot(ann, "nothing-left")
    votes = published(runs, task)
    assert votes.closed == "quota"
    assert set(Counter(vote.item_id for vote in votes.votes).values()) == {1}
    assert len(votes.votes) == 12
    assert [vote.flag for vote in votes.votes if vote.flag] == ["A text in the flag: 1 t b s u"]
    assert [vote.choice for vote in votes.votes if vote.annotator == "ann"][1] == "both_bad"
    assert all(0 < vote.seconds < 60 for vote in votes.votes)
    for page in (ann, bob):
        page.reload()
        expect(page.get_by_role("heading", name="Closed, thank you")).to_be_visible()


def test_phone_shows_all_without_scrolling_sideways(
    enter: Callable[..., Page], runs: Path, server: LabelServer
) -> None:
    items = tuple(make_item(number, first=WIDE + LONG, second=WIDE) for number in range(2))
    write_task(runs / "demo", make_task(num_items=2, items=items, rubric=WIDE))
    page = enter("ann", viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    for raw in (False, True):
        if raw:
            page.get_by_role("button", name="Raw text").tap()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        boxes = [button.bounding_box() for button in page.locator("#choices button:visible").all()]
        assert len(boxes) == 7
        assert all(box is not None and box["height"] >= 44 and box["x"] + box["width"] <= 360 for box in boxes)
    page.get_by_role("button", name="Raw text").tap()
    expect(page.locator(".rubric")).to_have_attribute("open", "")
    shoot(page, "phone")
    top, below = (page.locator(".answer").nth(number).bounding_box() for number in range(2))
    assert top is not None
    assert below is not None
    assert below["y"] >= top["y"] + top["height"]
    page.get_by_role("button", name="2 is better").tap()
    expect(page.locator("#own")).to_have_text("1 by you")
    # The rubric was read, and gives way to the answers until it is wanted.
    expect(page.locator(".rubric")).not_to_have_attribute("open", "")
    page.locator(".rubric summary").tap()
    expect(page.locator(".rubric")).to_have_attribute("open", "")
    page.reload()
    expect(page.locator(".rubric")).to_have_attribute("open", "")


def test_expired_revoked_and_used_links_say_what_to_do(browser: Browser, server: LabelServer, task: Task) -> None:
    page = browser.new_page(viewport=DESKTOP)
    page.goto(server.link("late", days=-1))
    expect(page.get_by_role("heading", name="This link has expired")).to_be_visible()
    assert_accessible(page)
    shoot(page, "expired")
    page.goto(f"{server.url}/c/demo/")
    expect(page.get_by_role("heading", name="You are not signed in")).to_be_visible()
    page.close()


def test_second_tab_follows_the_first(enter: Callable[..., Page], server: LabelServer, task: Task) -> None:
    first = enter("ann")
    second = first.context.new_page()
    second.goto(f"{server.url}/c/demo/")
    wait_for_script(second)
    assert question(second) == question(first)
    press(first, "1")
    expect(second.locator("#notice")).to_contain_text("another tab")
    assert question(second) == question(first)


def test_vote_of_a_lost_connection_is_kept_and_sent_once(
    enter: Callable[..., Page], server: LabelServer, runs: Path, task: Task
) -> None:
    page = enter("ann")
    page.context.set_offline(True)
    before = question(page)
    page.keyboard.press("t")
    expect(page.get_by_role("alert")).to_contain_text("The connection is lost")
    page.keyboard.press("1")  # a second try changes nothing
    assert question(page) == before
    expect(page.get_by_role("button", name="1 is better")).to_be_disabled()
    shoot(page, "offline")
    # The window is closed while there is no connection.
    context = page.context
    page.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto(f"{server.url}/c/demo/")
    expect(page.locator("#own")).to_have_text("1 by you")
    assert question(page) != before
    # A connection that comes back while the window is open.
    context.set_offline(True)
    page.keyboard.press("b")
    expect(page.get_by_role("alert")).to_be_visible()
    context.set_offline(False)
    expect(page.locator("#own")).to_have_text("2 by you")
    expect(page.get_by_role("alert")).to_be_hidden()
    while state(page) == "item":
        press(page, "s" if page.locator("#own").inner_text() == "2 by you" else "1")
    assert page.evaluate("Object.keys(localStorage).filter((name) => name.includes(':vote:'))") == []
    server.ratchet("--close")
    votes = published(runs, task)
    assert [vote.choice for vote in votes.votes][:3] == ["tie", "both_bad", "skip"]
    assert len(votes.votes) == 12


def test_vote_that_the_server_refuses_is_told_and_not_lost_in_silence(enter: Callable[..., Page], task: Task) -> None:
    ann = enter("ann")
    ann.route("**/c/demo/vote", lambda route: route.fulfill(status=422, body="refused"))
    before = question(ann)
    ann.keyboard.press("1")
    expect(ann.locator("#notice")).to_contain_text("was not accepted, and is not kept")
    assert question(ann) == before
    ann.unroute("**/c/demo/vote")
    press(ann, "1")
    expect(ann.locator("#notice")).to_be_hidden()
    expect(ann.locator("#situation")).to_have_attribute("data-judged", "1")


def test_flag_with_half_a_character_is_kept_with_its_vote(enter: Callable[..., Page], runs: Path, task: Task) -> None:
    ann = enter("ann")
    ann.keyboard.press("f")
    ann.locator("#flag-text").evaluate("field => field.value = 'cut \\ud83d'")
    ann.get_by_role("button", name="Keep").click()
    expect(ann.locator("#flag")).to_have_attribute("aria-pressed", "true")
    expect(ann.locator("#flagging")).to_be_hidden()
    press(ann, "1")
    expect(ann.locator("#situation")).to_have_attribute("data-judged", "1")
    with looked_at(runs / "demo") as database:
        assert database is not None
        assert [row["flag"] for row in database.execute("SELECT flag FROM events")] == ["cut \ufffd"]


def test_vote_whose_answer_was_lost_counts_once(
    enter: Callable[..., Page], server: LabelServer, runs: Path, task: Task
) -> None:
    page = enter("ann")
    sent = []

    def lose_the_answer(route: Any) -> None:
        sent.append(route.request.post_data_json["vote_id"])
        if len(sent) == 1:
            route.fetch()  # the server keeps it
            route.abort()
        else:
            route.continue_()

    page.route("**/vote", lose_the_answer)
    page.reload()  # a page that is already there may send one request past the route
    wait_for_script(page)
    page.keyboard.press("t")
    expect(page.locator("#own")).to_have_text("1 by you")
    assert len(sent) == 2
    assert len(set(sent)) == 1
    server.ratchet("--close")
    assert len(published(runs, task).votes) == 1


def test_untrusted_answers_run_and_load_nothing(enter: Callable[..., Page], runs: Path, server: LabelServer) -> None:
    items = tuple(make_item(number, first=ATTACK, second=f"{ATTACK} 2") for number in range(3))
    write_task(runs / "demo", make_task(num_items=3, items=items, rubric=ATTACK))
    page = enter("ann")
    troubles: list[str] = []
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.on("request", lambda request: request.url.startswith(server.url) or troubles.append(request.url))
    page.on("console", lambda message: message.type == "error" and troubles.append(message.text))
    page.reload()
    press(page, "1")
    page.get_by_role("button", name="Raw text").click()
    press(page, "2")
    expect(page.locator("main")).to_be_visible()
    assert page.locator("main :is(script, img, style, iframe)").count() == 0
    assert troubles == []


def test_page_is_worked_by_keyboard_alone(enter: Callable[..., Page], task: Task) -> None:
    page = enter("ann")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the answers")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the answers")).to_be_in_viewport()
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.id || e.dataset.choice || e.className || e.tagName, s.outlineStyle, s.outlineWidth]; })()"
        )
        if focus[0] == "BODY":
            break
        reached.append(focus[0])
        assert focus[1:] == ["solid", "3px"], focus
    assert reached == [
        "raw",
        "show-keys",
        "SUMMARY",
        "pane",
        "pane",
        "left",
        "tie",
        "both_bad",
        "right",
        "skip",
        "undo",
        "flag",
    ]
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("1")  # not behind the dialog
    page.get_by_label("Use these keys").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("1")
    page.wait_for_timeout(300)
    expect(page.locator("#own")).to_have_text("0 by you")
    page.get_by_role("button", name="Tie").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#own")).to_have_text("1 by you")
    expect(page.get_by_role("heading", name="The conversation")).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("1 judged by you.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_no_faults_that_axe_finds(
    scheme: str, enter: Callable[..., Page], runs: Path, browser: Browser, server: LabelServer
) -> None:
    short = "Short, with a [link](https://a.example)."
    items = tuple(make_item(number, first=LONG + WIDE, second=short) for number in range(2))
    write_task(runs / "demo", make_task(num_items=2, items=items))
    page = enter("ann", color_scheme=scheme)
    assert_accessible(page)
    shoot(page, scheme)
    page.set_viewport_size(PHONE)
    assert_accessible(page)
    page.set_viewport_size(DESKTOP)
    for key in ("?", "f"):
        page.keyboard.press(key)
        assert_accessible(page)
        page.keyboard.press("Escape")
    page.context.set_offline(True)
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_be_visible()
    assert_accessible(page)
    page.context.set_offline(False)
    expect(page.locator("#own")).to_have_text("1 by you")
    press(page, "2")
    assert_accessible(page)
    other = browser.new_page(color_scheme=scheme)
    other.goto(server.link("bob"))
    assert_accessible(other)
    other.close()


def test_long_answers_scroll_together(enter: Callable[..., Page], runs: Path, server: LabelServer) -> None:
    write_task(runs / "demo", make_task(num_items=1, items=(make_item(0, first=LONG, second=LONG * 2),)))
    page = enter("ann")
    share = "pane => pane.scrollTop / (pane.scrollHeight - pane.clientHeight)"
    panes = page.locator(".pane")
    for leader, other, part in ((0, 1, 0.5), (1, 0, 1.0), (0, 1, 0.0)):
        panes.nth(leader).evaluate(f"pane => pane.scrollTop = {part} * (pane.scrollHeight - pane.clientHeight)")
        wait_until(lambda other=other, part=part: abs(panes.nth(other).evaluate(share) - part) < 0.02, "the other", 10)
        page.wait_for_timeout(200)  # it must stay there
        for pane in (leader, other):
            assert panes.nth(pane).evaluate(share) == pytest.approx(part, abs=0.02)


def test_link_does_not_leave_the_page_with_its_token(browser: Browser, server: LabelServer, task: Task) -> None:
    page = browser.new_page()
    requests: list[Any] = []
    page.on("request", lambda request: requests.append(request))
    page.goto(server.link("ann"))
    page.get_by_role("button", name="Start comparing").click()
    expect(page.locator("#situation")).to_be_visible()
    assert len(requests) > 4
    assert not [request.url for request in requests if request.headers.get("referer")]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/c/demo/", page.url)
    page.close()
