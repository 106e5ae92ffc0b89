"""Thoughts that a judge does not read: what stays of a response, for every kind of judge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from components.config import CampaignConfig, JudgeConfig, PolicyConfig
from components.judges import rule as rule_module
from components.judges.health import measure_health
from components.judges.protocol import Group, JudgeContext, SampledTokens, scores
from components.judges.registry import judge_digest, load_judge
from components.judges.thoughts import as_shown, visible
from components.models.tokens import ChatTokenizer
from components.records import ModelRef
from components.start.prompts import check_thoughts
from tests.flows.family_campaign import llama_config
from tests.judges.chat_server import ChatServer
from tests.models.template_families import FAMILIES, family_tokenizer

ASK = [{"role": "user", "content": "Is it late?"}]
TAGS = ("<think>", "</think>")
HARMONY = ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")


@pytest.mark.parametrize(
    ("text", "opened", "shown"),
    [
        ("Yes.", False, "Yes."),
        (" Yes. ", False, " Yes. "),
        ("<think>Hm.</think>\n\nYes.", False, "Yes."),
        # The template opened the thought, so the response has its last tag only.
        ("Hm.</think>\n\nYes.", True, "Yes."),
        ("Hm.</think>\n\nYes.", False, "Yes."),
        # The limit cut the thought: there is no answer.
        ("<think>Hm. Yes", False, ""),
        ("Hm. Yes", True, ""),
        ("<think></think>Yes.", False, "Yes."),
        ("Well. <think>a</think>Yes <think>b</think>or no.", False, "Well. Yes or no."),
        ("a</think>b</think>Yes.", False, "Yes."),
        ("a</think>Yes. <think>b", True, "Yes. "),
        ("", True, ""),
    ],
)
def test_what_is_shown_is_what_stands_outside_of_thoughts(text: str, opened: bool, shown: str) -> None:
    assert visible(text, TAGS, opened=opened) == shown


@given(st.lists(st.sampled_from(["<think>", "</think>", "x ", "y"])), st.booleans())
def test_what_is_shown_is_that_of_reading_piece_by_piece(pieces: list[str], opened: bool) -> None:
    within, expected = opened, list[str]()
    for piece in pieces:
        if piece == "</think>" and not within:
            expected.clear()
        elif piece in TAGS:
            within = piece == "<think>"
        elif not within:
            expected.append(piece)
    whole, shown = "".join(pieces), "".join(expected)
    assert visible(whole, TAGS, opened=opened) == (shown if shown == whole else shown.lstrip())


def test_thoughts_of_channels_are_hidden_by_their_tags() -> None:
    whole = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    assert visible(whole, HARMONY, opened=False) == "Yes."
    assert visible("<|channel|>final<|message|>Yes.", HARMONY, opened=False) == "Yes."
    assert visible("<|channel|>analysis<|message|>Hm.", HARMONY, opened=False) == ""


THINKING = ("<think>A long thought.</think>Yes.", "<think>Hm.</think>No, no.", "<think>Yes. No, no.")


def thinking_group() -> Group:
    tokens = {number: SampledTokens((7,), "stop", None) for number in range(3)}
    return Group("p", ASK, tuple(enumerate(THINKING)), prompt_ids=(1,), tokens=tokens)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that the rule `length` scores."""
    texts: list[str] = []

    def score(messages: Any, text: str) -> float:
        texts.append(text)
        return float(len(text))

    monkeypatch.setitem(rule_module.RULES, "length", rule_module.Rule(score, lambda: "1"))
    return texts


def test_judge_reads_no_thoughts_and_its_verdicts_are_on_the_whole_responses(seen: list[str], tmp_path: Path) -> None:
    context = JudgeContext(tmp_path)
    plain = load_judge(JudgeConfig(rule="length"), context)
    assert scores(plain.judge([thinking_group()])) == {("p", n): len(text) for n, text in enumerate(THINKING)}
    seen.clear()
    judge = load_judge(JudgeConfig(rule="length", hide_thoughts=True), context)
    assert judge.name == plain.name
    verdicts = judge.judge([thinking_group()])
    assert seen == ["Yes.", "No, no.", ""]
    assert scores(verdicts) == {("p", 0): 4.0, ("p", 1): 7.0, ("p", 2): 0.0}
    (shown,) = as_shown(judge, [thinking_group()])
    assert shown.tokens == {}, "they hold the thoughts"
    health = measure_health(verdicts, [shown], seed=0)
    assert health.length_preference is not None
    assert health.length_preference.value == 1.0, "the longest answer wins, not the longest thought"


def test_jury_hides_thoughts_from_those_jurors_that_say_so(seen: list[str], tmp_path: Path) -> None:
    jurors = [{"rule": "length"}, {"rule": "length", "hide_thoughts": True}]
    some = JudgeConfig.model_validate({"kind": "jury", "jurors": jurors})
    load_judge(some, JudgeContext(tmp_path)).judge([thinking_group()])
    assert seen == [*THINKING, "Yes.", "No, no.", ""]
    seen.clear()
    everybody = JudgeConfig.model_validate({"kind": "jury", "jurors": jurors, "hide_thoughts": True})
    load_judge(everybody, JudgeContext(tmp_path)).judge([thinking_group()])
    assert seen == 2 * ["Yes.", "No, no.", ""]


def test_chat_judge_is_asked_once_about_answers_that_differ_in_their_thoughts_only(
    chat_server: Callable[..., ChatServer], tmp_path: Path
) -> None:
    server = chat_server(lambda request: json.dumps({"reason": "", "verdict": "A"}))
    config = JudgeConfig.model_validate({"kind": "llm", "endpoint": server.endpoint(), "hide_thoughts": True})
    texts = ["<think>a secret</think>Yes.", "<think>b secret</think>Yes.", "<think>c secret</think>No."]
    verdicts = load_judge(config, JudgeContext(tmp_path)).judge([Group("p", ASK, tuple(enumerate(texts)))])
    concluded = {(verdict.sample_id, verdict.opponent_id): verdict for verdict in verdicts if not verdict.part}
    assert concluded[0, 1].detail == "the texts are equal"
    assert len(concluded) == 3
    assert len(server.requests) == 2, "both orders of one comparison"
    assert not any("secret" in request["messages"][0]["content"] for request in server.requests)


def test_thought_that_the_template_opened_is_hidden_to_its_end(seen: list[str], tmp_path: Path) -> None:
    """R1's template ends a prompt with the first tag: a response cut within its thought has no tag at all."""
    tokenizer = family_tokenizer(FAMILIES["r1"])
    LlamaForCausalLM(llama_config(tokenizer)).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    policy = ModelRef(round=0, base=str(tmp_path / "policy"), base_digest="b", digest="d")
    context = JudgeContext(tmp_path, policy=policy, start=policy, limits=PolicyConfig())
    judge = load_judge(JudgeConfig(rule="length", hide_thoughts=True), context)
    judge.judge([Group("p", ASK, ((0, "It may be"), (1, "It may be.</think>Yes.")))])
    assert seen == ["", "Yes."]


def test_digest_of_a_judge_names_what_it_does_not_read() -> None:
    plain, hidden, other = (
        judge_digest(JudgeConfig.model_validate(more))
        for more in ({}, {"hide_thoughts": True}, {"hide_thoughts": True, "thought_tags": HARMONY})
    )
    assert len({plain, hidden, other}) == 3
    assert judge_digest(JudgeConfig(thought_tags=HARMONY)) == plain, "tags of thoughts that are not hidden"


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"judge": {"hide_thoughts": True, "thought_tags": ["", "x"]}}, "write two different texts"),
        (
            {"judge": {"kind": "jury", "jurors": [{}, {"kind": "implicit_reward"}], "hide_thoughts": True}},
            "hide_thoughts does not work with kind implicit_reward",
        ),
        (
            {"judge": {"kind": "jury", "jurors": [{}, {"kind": "implicit_reward", "hide_thoughts": True}]}},
            "hide_thoughts does not work with kind implicit_reward",
        ),
        (
            {
                "judge": {"kind": "constitution", "endpoint": {"url": "http://x", "model": "m"}, "hide_thoughts": True},
                "preferences": {"pairs": "revised"},
            },
            "pairs revised does not work with judge.hide_thoughts",
        ),
    ],
)
def test_judge_that_cannot_hide_thoughts_is_refused(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CampaignConfig.model_validate({"campaign": "c", **sections})


def test_tags_of_another_family_are_refused_with_those_of_the_model() -> None:
    tokenizer = family_tokenizer(FAMILIES["chatml"])
    plain = tokenizer.chat_template
    hidden = JudgeConfig(hide_thoughts=True)
    check_thoughts(ChatTokenizer(tokenizer), hidden, "m")
    tokenizer.chat_template = "{# <|channel|>analysis<|message|> #}" + plain
    chat = ChatTokenizer(tokenizer)
    check_thoughts(chat, JudgeConfig(), "m")
    check_thoughts(chat, JudgeConfig(hide_thoughts=True, thought_tags=HARMONY), "m")
    with pytest.raises(
        ValueError, match=r'm has other thoughts: set `thought_tags: \["<\|channel\|>analysis<\|message'
    ):
        check_thoughts(chat, hidden, "m")
    with pytest.raises(ValueError, match="has other thoughts"):
        check_thoughts(chat, JudgeConfig.model_validate({"kind": "jury", "jurors": [{}, {"hide_thoughts": True}]}), "m")
