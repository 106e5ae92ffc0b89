"""What a policy reads and what is trained on, in the templates that real models have."""

import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.config import PolicyConfig
from components.models.tokens import NO_PREFIX, OTHER_TEXT, ChatTokenizer, NotRendered
from tests.models.template_families import FAMILIES, OWN, PAGE, Family, family_tokenizer, published, templates_table

ASK = [{"role": "user", "content": "Is the order late?"}]
ANSWER = "It is refused."
TAKE_TEXT = [name for name, family in FAMILIES.items() if family.takes_text]


def chat_of(family: Family, template_date: str = "") -> ChatTokenizer:
    return ChatTokenizer(family_tokenizer(family), family.arguments, template_date)


class _Wordless:
    """A tokenizer whose vocabulary has none of the words, as one that was read as another kind."""

    def get_chat_template(self, **_: Any) -> str:
        return ""

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        return "Hello"

    def __call__(self, *_: Any, **__: Any) -> dict[str, list[int]]:
        return {"input_ids": []}


def test_a_prompt_without_tokens_is_refused_with_the_tokenizers_kind() -> None:
    tokenizer: Any = _Wordless()
    with pytest.raises(ValueError, match=r"the tokenizer \(_Wordless\) returns no tokens for the prompt 'Hello'"):
        ChatTokenizer(tokenizer).prompt_ids([{"role": "user", "content": "Hello"}])


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_stops_at_the_end_of_turn_that_the_template_writes(name: str) -> None:
    chat = chat_of(FAMILIES[name])
    to_id = chat.tokenizer.convert_tokens_to_ids
    assert chat.stop_ids == {to_id(FAMILIES[name].eos), to_id(FAMILIES[name].end_of_turn)}


@pytest.mark.parametrize("name", TAKE_TEXT)
def test_an_answer_from_outside_ends_with_the_first_stop_token_and_says_nothing_else(name: str) -> None:
    chat = chat_of(FAMILIES[name])
    ids = chat.response_ids(ASK, ANSWER, max_tokens=99)
    assert chat.tokenizer.convert_ids_to_tokens(ids[-1]) == FAMILIES[name].end_of_turn
    assert chat.text(ids[:-1]).strip() == ANSWER
    assert not chat.stop_ids & set(ids[:-1])


@pytest.mark.parametrize("name", TAKE_TEXT)
def test_an_answer_from_outside_that_is_cut_has_no_stop_token(name: str) -> None:
    chat = chat_of(FAMILIES[name])
    whole = chat.response_ids(ASK, ANSWER, max_tokens=99)
    for most in range(1, len(whole)):
        assert chat.response_ids(ASK, ANSWER, max_tokens=most) == whole[:most]


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("qwen3", ANSWER, OTHER_TEXT),  # an empty thought is put in front
        ("qwen3", "<think>\nthe gate says so, and the", OTHER_TEXT),
        ("r1", ANSWER, NO_PREFIX),  # the prompt ends in <think>, the conversation has none
        ("strips thoughts", "<think>it was used</think>\n\nIt is refused.", OTHER_TEXT),
        ("chatml", "It is<|im_end|> refused.", OTHER_TEXT),  # would end in the middle
        ("own", "It is</s>", OTHER_TEXT),
    ],
)
def test_an_answer_of_which_the_template_makes_another_is_refused(name: str, answer: str, reason: str) -> None:
    with pytest.raises(NotRendered) as refused:
        chat_of(FAMILIES[name]).response_ids(ASK, answer, max_tokens=99)
    assert refused.value.reason == reason


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_an_answer_from_outside_is_trained_on_as_it_is_or_not_at_all(text: str) -> None:
    chat = OWN_CHAT
    try:
        ids = chat.response_ids(ASK, text, max_tokens=999)
    except NotRendered:
        return
    assert chat.text(ids[:-1]).strip() == text.strip()
    assert ids[-1] in chat.stop_ids


OWN_CHAT = chat_of(FAMILIES["own"])


def test_tokens_that_end_within_a_character_say_so() -> None:
    """Rendering this text again would train on the bytes of the replacement character."""
    ids = OWN_CHAT.tokenizer("😀", add_special_tokens=False)["input_ids"]
    assert OWN_CHAT.text(ids) == "😀"
    assert OWN_CHAT.text(ids[:-1]) == "\N{REPLACEMENT CHARACTER}"


def test_a_special_token_within_an_answer_is_read_by_the_judge_too() -> None:
    chat = chat_of(FAMILIES["chatml"])
    ids = chat.tokenizer("Yes<|im_start|>user", add_special_tokens=False)["input_ids"]
    assert chat.text(ids) == "Yes<|im_start|>user"


@pytest.mark.parametrize("name", ["llama3_2", "gptoss"])
def test_a_template_that_writes_the_date_writes_the_pinned_one(name: str) -> None:
    family = Family(published(name), "<|eot|>", "<|eot|>")
    texts = [chat_of(family, day).render(ASK, add_generation_prompt=True) for day in ("2024-07-26", "2026-11-29")]
    other = {"llama3_2": ("26 Jul 2024", "29 Nov 2026"), "gptoss": ("2024-07-26", "2026-11-29")}[name]
    assert all(day in text for day, text in zip(other, texts, strict=True))
    today = datetime.date.today()
    if today.isoformat() not in ("2024-07-26", "2026-11-29"):
        assert not any(today.strftime(form) in "".join(texts) for form in ("%d %b %Y", "%Y-%m-%d"))


@pytest.mark.parametrize("form", ["%d %b %Y", "%Y-%m-%d", "%A, %-d %B %y", "%j|%U|%p|%H:%M:%S"])
def test_a_pinned_date_is_written_as_the_library_writes_dates(form: str) -> None:
    family = Family("\n{{ strftime_now('" + form + "') }}" + OWN, "</s>", "</s>")
    text = chat_of(family, "2024-07-06").render(ASK, add_generation_prompt=True)
    day = datetime.datetime(2024, 7, 6)
    assert text == f"\n{day.strftime(form)}### user\nIs the order late?</s>\n### assistant\n"


def test_a_date_that_is_no_date_and_an_argument_that_we_set_are_refused() -> None:
    with pytest.raises(ValueError, match="template_date 2026-02-30 is not a date: use YYYY-MM-DD"):
        PolicyConfig(template_date="2026-02-30")
    with pytest.raises(ValueError, match="chat_template_arguments: tokenize is set for each call: remove it"):
        PolicyConfig(chat_template_arguments={"tokenize": True})


def test_page_says_of_every_chat_template_what_is_found() -> None:
    assert templates_table() in PAGE.read_text(encoding="utf-8"), "run `make models`"
