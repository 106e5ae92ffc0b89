"""The chat page of `ratchet serve` in a real browser, with an engine whose words the test knows."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from components.config import FeedbackConfig
from tests.serving.engine_stand_in import StandIn
from tests.serving.gateway_site import KEY, Site, site

pytestmark = pytest.mark.e2e
SHOTS = Path(__file__).parents[2] / "runs" / "e2e"
EVIL = '<img src=x onerror="document.title=1"><script>document.title=2</script> [a](javascript:alert(1)) **fine**'


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Site]:
    words = ["Good", " day", ", how can", " I help?"]
    with site(tmp_path, StandIn(words, seconds=0.5), feedback=FeedbackConfig(consent="We keep what you rate.")) as up:
        yield up


def context(browser: Browser, **options: Any) -> BrowserContext:
    made = browser.new_context(**({"viewport": {"width": 1000, "height": 800}} | options))
    made.set_default_timeout(15_000)
    return made


@pytest.fixture
def chat(browser: Browser, front: Site) -> Iterator[Page]:
    """The page of a user who followed a link with the key."""
    own = context(browser)
    page = own.new_page()
    page.goto(f"{front.address}/#key={KEY}")
    expect(page.get_by_label("Your message")).to_be_visible()
    yield page
    own.close()


def ask(page: Page, text: str = "Hello?") -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def test_chat_streams_and_keeps_thumb_and_correction_of_who_agrees(chat: Page, front: Site) -> None:
    assert KEY not in chat.url, "the key must not stay in the address"
    expect(chat.get_by_text("We keep what you rate.")).to_be_visible()
    chat.get_by_label("I agree that what I rate is kept").check()
    ask(chat)
    answer = chat.locator(".answer .text")
    expect(answer).to_have_text("Good day")  # while it streams
    expect(answer).to_have_text("Good day, how can I help?")
    up, down = chat.get_by_role("button", name="Good answer"), chat.get_by_role("button", name="Bad answer")
    up.click()
    expect(chat.get_by_text("Thank you, your rating is kept.")).to_be_visible()
    expect(up).to_have_attribute("aria-pressed", "true")
    chat.get_by_role("button", name="Correct it").click()
    field = chat.get_by_label("What should it have said?")
    expect(field).to_be_focused()
    expect(field).to_have_value("Good day, how can I help?")
    field.fill("Welcome, how can I help?")
    SHOTS.mkdir(parents=True, exist_ok=True)
    chat.screenshot(path=SHOTS / "chat-correction.png")
    chat.get_by_role("button", name="Send correction").click()
    expect(chat.get_by_text("Thank you, your correction is kept.")).to_be_visible()
    expect(down).to_have_attribute("aria-pressed", "true")
    first, second = front.store.rows()
    assert (first.thumb, first.correction, first.served) == ("up", None, True)
    assert (second.thumb, second.correction, second.served) == ("down", "Welcome, how can I help?", True)
    assert second.messages == '[{"role": "user", "content": "Hello?"}]'
    assert second.conversation_id in chat.locator("#number").inner_text()
    chat.get_by_role("button", name="Delete what was kept of it").click()
    expect(chat.locator("#number")).to_contain_text("Deleted: 2")
    assert front.store.rows() == []


def test_chat_without_consent_keeps_nothing(chat: Page, front: Site) -> None:
    ask(chat)
    expect(chat.locator(".answer .text")).to_have_text("Good day, how can I help?")
    expect(chat.get_by_text("Nothing is kept, and answers cannot be rated.")).to_be_visible()
    expect(chat.locator(".thumb").first).to_be_hidden()
    assert not front.store.path.exists()
    chat.get_by_label("I agree that what I rate is kept").check()
    expect(chat.locator(".thumb").first).to_be_visible()
    chat.get_by_label("I agree that what I rate is kept").uncheck()
    expect(chat.locator(".thumb").first).to_be_hidden()


def test_chat_answer_that_could_not_be_rendered_stays_and_the_conversation_goes_on(chat: Page, front: Site) -> None:
    chat.route("**/render", lambda route: route.fulfill(status=502, json={"error": {"message": "away"}}))
    chat.get_by_label("I agree that what I rate is kept").check()
    for number in range(2):
        ask(chat)
        expect(chat.locator(".answer[data-done] .text").nth(number)).to_have_text("Good day, how can I help?")
    asked = [json.loads(body)["messages"] for _, _, _, body in front.champion.seen]
    assert [[message["role"] for message in messages] for messages in asked] == [
        ["user"],
        ["user", "assistant", "user"],
    ]
    chat.get_by_role("button", name="Good answer").last.click()
    expect(chat.get_by_text("Thank you, your rating is kept.")).to_be_visible()


def test_chat_deletion_that_failed_says_so(chat: Page, front: Site) -> None:
    chat.get_by_label("I agree that what I rate is kept").check()
    ask(chat)
    chat.get_by_role("button", name="Good answer").click()
    forget = chat.get_by_role("button", name="Delete what was kept of it")
    expect(forget).to_be_visible()
    chat.route("**/feedback/*", lambda route: route.abort())
    forget.click()
    expect(chat.locator("#number")).to_contain_text("Nothing is deleted")
    expect(chat.locator("#number")).to_contain_text(front.store.rows()[0].conversation_id)
    chat.unroute("**/feedback/*")
    forget.click()
    expect(chat.locator("#number")).to_contain_text("Deleted: 1")
    assert front.store.rows() == []


def test_chat_answer_that_attacks_the_page_is_text(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path, StandIn([EVIL[:20], EVIL[20:]], seconds=0.1)) as front:
        own = context(browser)
        page = own.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{front.address}/#key={KEY}")
        ask(page, "<b>Hello</b>")
        expect(page.locator(".answer strong")).to_have_text("fine")
        expect(page.locator(".bubble")).to_have_text("<b>Hello</b>")
        assert page.locator(".answer img, .answer script, .answer a[href^=javascript]").count() == 0
        expect(page).to_have_title("served")
        assert problems == []
        own.close()


def test_chat_signs_in_by_the_key_and_stays_signed_in(browser: Browser, front: Site) -> None:
    own = context(browser)
    page = own.new_page()
    page.goto(front.address)
    page.get_by_label("Key").fill("guessed")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("that is not the key of this server")
    page.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.reload()
    expect(page.get_by_label("Your message")).to_be_visible()
    (cookie,) = own.cookies()
    assert cookie["httpOnly"]
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Key")).to_be_visible()
    own.close()


def test_chat_fits_a_phone_in_the_dark_and_works_by_keyboard(browser: Browser, front: Site) -> None:
    own = context(browser, viewport={"width": 360, "height": 640}, color_scheme="dark")
    page = own.new_page()
    page.goto(f"{front.address}/#key={KEY}")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.get_by_label("I agree that what I rate is kept").focus()
    page.keyboard.press("Space")
    ask(page, "A_very_long_word_" * 20)
    expect(page.locator(".answer .text")).to_have_text(re.compile("help"))
    page.get_by_role("button", name="Good answer").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Thank you, your rating is kept.")).to_be_visible()
    page.screenshot(path=SHOTS / "chat-phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.get_by_role("button", name="Good answer").bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) >= 44
    own.close()


def test_chat_stopped_answer_ends_the_engines_work(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path, StandIn(["word "] * 300, seconds=0.1)) as front:
        own = context(browser)
        page = own.new_page()
        page.goto(f"{front.address}/#key={KEY}")
        ask(page)
        expect(page.locator(".answer .text")).to_have_text(re.compile("word word"))
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("You stopped this answer.").first).to_be_visible()
        page.wait_for_timeout(500)
        assert front.champion.cancelled == 1
        own.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_chat_has_no_faults_that_axe_finds(scheme: str, browser: Browser, front: Site) -> None:
    own = context(browser, color_scheme=scheme, bypass_csp=True)  # axe is a script of somebody else
    page = own.new_page()
    page.goto(front.address)
    expect(page.get_by_label("Key")).to_be_visible()
    assert Axe().run(page).response["violations"] == []
    page.goto(f"{front.address}/#key={KEY}")
    page.get_by_label("I agree that what I rate is kept").check()
    ask(page)
    page.get_by_role("button", name="Bad answer").click()
    page.get_by_role("button", name="Correct it").click()
    expect(page.get_by_label("What should it have said?")).to_be_focused()
    assert Axe().run(page).response["violations"] == []
    page.goto(f"{front.address}/canary")
    assert Axe().run(page).response["violations"] == []
    own.close()
