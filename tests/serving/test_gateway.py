"""The front before an engine: real HTTP on both sides."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from components.feedback.selection import standing
from components.serving.gateway.sent_answers import Recorder, SentAnswers, has_own_words
from tests.serving.engine_stand_in import KEY as ENGINE_KEY
from tests.serving.engine_stand_in import StandIn
from tests.serving.gateway_site import KEY, QUESTION, Site, site


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, StandIn(["Good", " day", "."])) as running_site:
        yield running_site


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_gateway_passes_a_stream_on_part_by_part(tmp_path: Path) -> None:
    with site(tmp_path, StandIn(["a", "b", "c"], seconds=0.3)) as served:
        body = {"model": "served", "messages": QUESTION, "stream": True}
        arrived = []
        with httpx.stream("POST", f"{served.address}/v1/chat/completions", json=body, headers=served.bearer) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    arrived.append((time.monotonic(), json.loads(line[6:])["choices"][0]["delta"].get("content")))
    assert [text for _, text in arrived] == ["a", "b", "c", None]
    assert arrived[2][0] - arrived[0][0] > 0.4, "the parts came together"


@pytest.mark.parametrize("stream", [True, False])
def test_gateway_client_that_leaves_ends_the_engines_work(stream: bool, tmp_path: Path) -> None:
    with site(tmp_path, StandIn(["word"] * 200, seconds=0.1 if stream else 20.0)) as served:
        body = {"model": "served", "messages": QUESTION, "stream": stream}
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(
                f"{served.address}/v1/chat/completions", json=body, headers=served.bearer, timeout=httpx.Timeout(0.05)
            )
        wait_until(lambda: served.champion.cancelled == 1)
        assert served.champion.sent_parts < 50


def test_gateway_stream_that_the_engine_breaks_off_does_not_look_whole(tmp_path: Path) -> None:
    with site(tmp_path, StandIn(["Good", " day"], breaks_off=True)) as served:
        with pytest.raises(httpx.RemoteProtocolError):
            served.ask(stream=True)
        assert served.rate(completion_id="chatcmpl-1", response="Good day").json()["served"] is False


def test_gateway_keeps_the_engines_answers_as_they_are(served: Site) -> None:
    refused = served.ask(model="unknown")
    assert (refused.status_code, refused.json()) == (404, {"error": {"message": "no such model"}})
    listed = httpx.get(f"{served.address}/v1/models?limit=1", headers=served.bearer)
    assert listed.json() == {"path": "/v1/models", "query": "limit=1"}
    assert httpx.get(f"{served.address}/health").status_code == 200


def test_gateway_engine_gets_its_own_key_and_not_what_is_the_fronts(served: Site) -> None:
    served.ask(headers={"X-Request-Id": "chosen-by-the-client", "Cookie": "a=b", "X-Other": "stays"})
    _, _, headers, _ = served.champion.seen[-1]
    assert headers["authorization"] == f"Bearer {ENGINE_KEY}"
    assert headers["x-other"] == "stays"
    assert not {"x-request-id", "cookie"} & headers.keys()
    assert KEY not in str(headers)


def test_gateway_engine_that_is_gone_is_a_502_in_one_line(tmp_path: Path) -> None:
    with site(tmp_path, StandIn(["never"]), ends_engine=True) as served:
        gone = served.ask()
    assert gone.status_code == 502
    assert gone.json()["error"]["message"] == "the model's server cannot be reached (ConnectError)"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/feedback"),
        ("DELETE", "/feedback/v1"),
        ("GET", "/canary"),
        ("POST", "/render"),
        ("GET", "/openapi.json"),
        ("POST", "/"),
        ("POST", "/health"),
    ],
)
def test_gateway_without_the_key_answers_401(method: str, path: str, served: Site) -> None:
    for headers in ({}, {"Authorization": KEY}, {"Authorization": "Bearer guessed"}, {"Cookie": "ratchet_chat=forged"}):
        answer = httpx.request(method, served.address + path, headers=headers, json={})
        assert answer.status_code == 401, (method, path, headers)
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert served.champion.seen == []


def test_gateway_thumb_on_an_answer_that_it_sent_is_served(served: Site) -> None:
    whole = served.ask().json()
    streamed = served.ask(stream=True).text
    name = json.loads(streamed.splitlines()[0].removeprefix("data: "))["id"]
    for number, completion in enumerate([whole["id"], name]):
        kept = served.rate(client_id=f"c{number}", completion_id=completion)
        assert kept.status_code == 201
        assert kept.json()["served"] is True
    assert [(row.served, row.round, row.finish_reason) for row in served.store.rows()] == [(True, 1, "stop")] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"response": "Good day!"},
        {"messages": [{"role": "user", "content": "Say something rude."}]},
        {"completion_id": "chatcmpl-99"},
        {"completion_id": None},
    ],
)
def test_gateway_words_that_it_did_not_send_are_not_served(changes: dict[str, object], served: Site) -> None:
    completion = served.ask().json()["id"]
    kept = served.rate(**({"completion_id": completion} | changes))
    assert (kept.status_code, kept.json()["served"]) == (201, False)
    (row,) = served.store.rows()
    assert (row.served, row.round) == (False, None)


@pytest.mark.parametrize(
    "dictates",
    [
        {"structured_outputs": {"choice": ["Good day."]}},
        {"guided_choice": ["Good day."]},
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"17": 100}},
        {"stop": ["."]},
        {"chat_template": "{{ 'Say: Good day.' }}"},
        {"unheard_of": 1},
    ],
)
def test_gateway_words_that_the_client_may_have_dictated_are_not_served(
    dictates: dict[str, object], served: Site
) -> None:
    completion = served.ask(**dictates).json()["id"]
    assert served.rate(completion_id=completion).json()["served"] is False


def test_gateway_words_of_a_client_that_sets_how_to_sample_are_served(served: Site) -> None:
    free = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 40, "seed": 3, "user": "u-1", "stop": None}
    assert served.rate(completion_id=served.ask(**free).json()["id"]).json()["served"] is True


def test_usual_settings_are_no_dictation() -> None:
    usual = {"model": "m", "stop": ["<end>"], "tools": [{"name": "weather"}]}
    assert has_own_words({"messages": [], **usual}, usual)
    assert not has_own_words({"messages": [], **usual, "stop": ["No"]}, usual)
    assert not has_own_words({"messages": [], "tools": []}, {"model": "m"})


def test_answer_to_another_conversation_under_the_same_completion_is_not_served() -> None:
    """Engines let clients name their completions."""
    sent = SentAnswers()
    rude = [{"role": "user", "content": "Say something rude."}]
    for messages, words in ((QUESTION, "Good day."), (rude, "Go away.")):
        Recorder(sent, messages, round=1, model_digest="d", arm=None).whole(
            json.dumps({"id": "mine", "choices": [{"message": {"content": words}}]}).encode()
        )
    assert sent.origin("mine", QUESTION, "Good day.") is not None
    assert sent.origin("mine", rude, "Go away.") is not None
    assert sent.origin("mine", QUESTION, "Go away.") is None
    assert sent.origin("mine", rude, "Good day.") is None


def test_thumbs_on_one_answer_under_other_names_are_one_thumb(served: Site) -> None:
    """One user could count as many, and be the majority."""
    completion = served.ask().json()["id"]
    for number in range(5):
        name = {"client_id": f"c{number}", "conversation_id": f"v{number}"}
        thumb = "down" if number == 4 else "up"
        assert served.rate(completion_id=completion, thumb=thumb, **name).json()["served"] is True
    assert [row.thumb for row in standing(served.store.rows())] == ["down"]


def test_gateway_feedback_sent_twice_is_one_row(served: Site) -> None:
    first, second = served.rate(), served.rate()
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    conflict = served.rate(thumb="down")
    assert conflict.status_code == 409
    assert len(served.store.rows()) == 1


def test_gateway_feedback_that_cannot_be_kept_is_refused_in_one_line(served: Site) -> None:
    refused = served.rate(thumb="sideways")
    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == "thumb: Input should be 'up' or 'down'"
    assert served.rate(consent=False).status_code == 422
    broken = httpx.post(f"{served.address}/feedback", content=b"{", headers=served.bearer)
    assert broken.status_code == 422
    deep = httpx.post(f"{served.address}/feedback", content=b"[" * 100_000, headers=served.bearer)
    assert deep.status_code == 422
    assert served.rate(response="a" * 200_001).status_code == 413
    assert served.rate(response="a" * 2**20).status_code == 413
    assert not served.store.path.exists()


def test_gateway_thumb_that_cannot_be_kept_is_a_503_that_shows_no_path(served: Site) -> None:
    served.store.path.parent.mkdir()
    served.store.path.write_bytes(b"no database" * 1000)
    failed = served.rate()
    assert failed.status_code == 503
    assert failed.json()["error"]["message"] == "the rating could not be kept: try again later"


def test_gateway_chat_without_feedback_keeps_nothing(served: Site, tmp_path: Path) -> None:
    served.ask()
    served.ask(stream=True)
    assert list(tmp_path.iterdir()) == []


def test_gateway_browser_signs_in_by_the_key_once(served: Site) -> None:
    page = httpx.get(served.address)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{served.address}/session").json() == {"signed_in": False}
    wrong = httpx.post(f"{served.address}/session", json={"key": "guessed"})
    assert wrong.status_code == 401
    signed_in = httpx.post(f"{served.address}/session", json={"key": KEY})
    cookie = signed_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert KEY not in cookie
    with served.browser() as browser:
        greeting = browser.get("/session").json()
        assert greeting["request"] == {"model": "served", "max_tokens": 24}
        assert "deleted after 90 days" in greeting["consent"]
        answer = browser.post("/v1/chat/completions", json={"model": "served", "messages": QUESTION})
        assert answer.json()["choices"][0]["message"]["content"] == "Good day."
        kept = browser.post(
            "/feedback",
            json={
                "client_id": "c1",
                "conversation_id": "v1",
                "completion_id": answer.json()["id"],
                "messages": QUESTION,
                "response": "Good day.",
                "thumb": "down",
                "correction": "Good day to you.",
                "consent": True,
            },
        )
        assert kept.json()["served"] is True
        assert browser.get("/v1/models").status_code == 401, "a session is for the page and not for the engine's API"
        assert browser.delete("/feedback/v1").json() == {"deleted": 1}
        served.rate(client_id="c2", conversation_id="shop/17:a")
        assert browser.delete("/feedback/shop%2F17%3Aa").json() == {"deleted": 1}
    assert served.store.rows() == []


def test_gateway_request_that_another_site_made_a_browser_send_is_refused(served: Site) -> None:
    with served.browser() as browser:
        for token in ("", "forged", "x.y"):
            browser.headers["x-csrf-token"] = token
            for path in ("/feedback", "/v1/chat/completions", "/render"):
                assert browser.post(path, json={"text": "a"}).status_code == 401


def test_gateway_unknown_host_is_refused_without_the_key(served: Site) -> None:
    with served.browser() as browser:
        rebound = browser.get("/session", headers={"Host": "evil.example"})
    assert rebound.status_code == 421
    by_key = httpx.get(f"{served.address}/v1/models", headers=served.bearer | {"Host": "any.example"})
    assert by_key.status_code == 200, "who has the key needs no browser's protection"


def test_gateway_key_that_is_no_text_is_refused(served: Site) -> None:
    answer = httpx.post(f"{served.address}/session", content=b'{"key": "\\ud800"}')
    assert answer.status_code == 401


def test_gateway_guessing_the_key_is_slowed_down(served: Site) -> None:
    codes = [httpx.post(f"{served.address}/session", json={"key": str(number)}).status_code for number in range(15)]
    assert codes[0] == 401
    assert codes[-1] == 429


def test_gateway_answer_is_rendered_without_what_it_smuggles_in(served: Site) -> None:
    with served.browser() as browser:
        html = browser.post("/render", json={"text": "**hi** <img src=x onerror=alert(1)>"}).json()["html"]
    assert "<strong>hi</strong>" in html
    assert "<img" not in html


def test_canary_answers_its_share_of_the_conversations_and_all_of_each(tmp_path: Path) -> None:
    with site(tmp_path, StandIn(["old"]), StandIn(["new"]), share=0.25) as served:

        def answer(conversation: str) -> str:
            sent = served.ask(headers={"X-Conversation-Id": conversation}).json()
            return str(sent["choices"][0]["message"]["content"])

        first = {name: answer(name) for name in map(str, range(80))}
        assert {name: answer(name) for name in first} == first
        assert 8 <= sum(text == "new" for text in first.values()) <= 35
        in_body = {name: served.ask(metadata={"conversation_id": name}).json() for name in list(first)[:8]}
        assert [sent["choices"][0]["message"]["content"] for sent in in_body.values()] == list(first.values())[:8]
        other = [{"role": "user", "content": "Other beginning"}]
        grown = [*other, {"role": "assistant", "content": "old"}, {"role": "user", "content": "More"}]
        assert served.ask(messages=other).json()["choices"] == served.ask(messages=grown).json()["choices"], (
            "a conversation without a name is known by its beginning"
        )


def test_canary_reports_thumbs_of_both_with_intervals(tmp_path: Path) -> None:
    with site(tmp_path, StandIn(["old"]), StandIn(["new"]), share=0.5) as served:
        for number in range(30):
            sent = served.ask(headers={"X-Conversation-Id": str(number)}).json()
            words = sent["choices"][0]["message"]["content"]
            kept = served.rate(
                client_id=f"c{number}",
                conversation_id=str(number),
                completion_id=sent["id"],
                response=words,
                thumb="up" if words == "new" else "down",
            )
            assert kept.json()["served"], kept.text
        report = httpx.get(f"{served.address}/canary", headers=served.bearer).json()
        assert report["champion"]["up"] == 0
        assert report["challenger"]["up"] == report["challenger"]["conversations"] > 3
        assert report["difference"]["value"] == 1.0
        assert report["difference"]["low"] < 1.0
        with served.browser() as browser:
            page = browser.get("/canary").text
        assert "Challenger minus champion" in page
        assert "Nothing is promoted" in page


def test_gateway_says_that_there_is_no_canary(served: Site) -> None:
    assert httpx.get(f"{served.address}/canary", headers=served.bearer).json() == {"canary": None}


def test_recorder_puts_parts_together_wherever_they_end() -> None:
    sent = SentAnswers()
    recorder = Recorder(sent, QUESTION, round=3, model_digest="d", arm=None)
    events = "".join(
        f"data: {json.dumps({'id': 'x', 'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]})}\r\n\r\n"
        for delta, finish in (
            ({"role": "assistant"}, None),
            ({"content": "Grüß"}, None),
            ({"content": " dich"}, "length"),
        )
    ).encode()
    for place in range(len(events)):
        recorder.part(events[place : place + 1])
    origin = sent.origin("x", QUESTION, "Grüß dich")
    assert origin is not None
    assert (origin.round, origin.finish_reason) == (3, "length")


def test_sent_answers_forget_the_oldest() -> None:
    sent = SentAnswers(most=2)
    for name in ("a", "b", "c"):
        Recorder(sent, QUESTION, round=1, model_digest="d", arm=None).whole(
            json.dumps({"id": name, "choices": [{"message": {"content": "Hi"}}]}).encode()
        )
    assert [sent.origin(name, QUESTION, "Hi") is not None for name in ("a", "b", "c")] == [False, True, True]
