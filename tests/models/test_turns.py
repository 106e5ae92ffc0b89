"""The assistant's turns in the templates that real models have: what is trained on, and what is not."""

from typing import Any

import pytest
from jinja2 import TemplateError

from components.builtin.starter import build_tokenizer
from components.models.tokens import NO_END, NO_PREFIX, OTHER_TEXT, ChatTokenizer, NotRendered
from components.models.turns import Turns, assistant_turns
from tests.models.template_families import FAMILIES, family_tokenizer
from tests.models.test_tool_calls import ASKED, CALLING, RESULT, TOOLS

TALK = [
    {"role": "user", "content": "Is the order late?"},
    {"role": "assistant", "content": "It is refused."},
    {"role": "user", "content": "It is refused."},
    {"role": "assistant", "content": "Sorry, the lamp is late."},
]
PLAIN = ["chatml", "llama-3", "llama-3.2", "gemma", "phi-3.5", "mistral", "own", "qwen3 without thoughts"]


def chat_of(name: str) -> ChatTokenizer:
    family = FAMILIES[name]
    return ChatTokenizer(family_tokenizer(family), family.arguments, "2026-11-30")


def pieces(chat: ChatTokenizer, turns: Turns) -> list[str]:
    """The texts of the runs of trained tokens."""
    runs: list[list[int]] = []
    for place, (token, is_trained) in enumerate(zip(turns.token_ids, turns.trained, strict=True)):
        if is_trained:
            if place == 0 or not turns.trained[place - 1]:
                runs.append([])
            runs[-1].append(token)
    return [chat.text(run) for run in runs]


@pytest.mark.parametrize("name", PLAIN)
def test_turns_of_a_template_are_the_answers_with_their_end_tokens_and_nothing_else(name: str) -> None:
    chat, end = chat_of(name), FAMILIES[name].end_of_turn
    turns = assistant_turns(chat, TALK, last_only=False)
    answers = [f"{message['content']}{end}" for message in TALK if message["role"] == "assistant"]
    # Without thoughts, Qwen 3 asks for an answer behind an empty thought, which it does not write in earlier turns.
    expected = answers[1:] if name == "qwen3 without thoughts" else answers
    assert [piece.strip() for piece in pieces(chat, turns)] == expected
    assert (turns.num_turns, turns.num_changed) == (len(expected), 2 - len(expected))
    assert turns.trained[-1]
    assert turns.token_ids[-1] in chat.stop_ids


@pytest.mark.parametrize("name", PLAIN)
def test_turns_of_the_last_alone_are_the_tokens_of_a_response(name: str) -> None:
    """They are what preference training calls a response to this prompt."""
    chat = chat_of(name)
    turns = assistant_turns(chat, TALK, last_only=True)
    prompt = chat.prompt_ids(TALK[:-1])
    response = chat.response_ids(TALK[:-1], TALK[-1]["content"], max_tokens=99)
    assert turns.token_ids == prompt + response
    assert turns.trained == [False] * len(prompt) + [True] * len(response)


def test_turns_of_the_built_in_template_are_the_replies() -> None:
    chat = ChatTokenizer(build_tokenizer())
    ask = [{"role": "user", "content": "The kettle was a bad choice."}]
    turns = assistant_turns(chat, [*ask, {"role": "assistant", "content": "Have a good day."}], last_only=False)
    (piece,) = pieces(chat, turns)
    assert piece.startswith("Have a good day.")
    assert turns.token_ids[-1] == chat.tokenizer.eos_token_id
    assert turns.token_ids[: turns.trained.index(True)] == chat.prompt_ids(ask)


def test_turns_with_thoughts_train_the_thought_that_the_template_keeps_and_skip_what_it_removes() -> None:
    chat = chat_of("qwen3")
    thinking = [
        message | ({"content": f"<think>\nlate\n</think>\n\n{message['content']}"} if place % 2 else {})
        for place, message in enumerate(TALK)
    ]
    turns = assistant_turns(chat, thinking, last_only=False)
    assert pieces(chat, turns) == [f"{thinking[3]['content']}<|im_end|>"]
    assert (turns.num_turns, turns.num_changed) == (1, 1)


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("qwen3", "It is refused.", OTHER_TEXT),  # an empty thought is put in front
        ("r1", "It is refused.", NO_PREFIX),  # the prompt ends in <think>, the conversation has none
        ("strips thoughts", "<think>it was used</think>\n\nIt is refused.", OTHER_TEXT),
        ("chatml", "It is<|im_end|> refused.", OTHER_TEXT),  # would end in the middle
    ],
)
def test_turns_whose_last_is_written_otherwise_are_refused(name: str, answer: str, reason: str) -> None:
    with pytest.raises(NotRendered) as refused:
        assistant_turns(chat_of(name), [TALK[0], {"role": "assistant", "content": answer}], last_only=False)
    assert refused.value.reason == reason


def test_turns_without_an_end_token_are_refused() -> None:
    """A model that is trained on them would never stop."""
    tokenizer: Any = family_tokenizer(FAMILIES["own"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    with pytest.raises(NotRendered) as refused:
        assistant_turns(ChatTokenizer(tokenizer), TALK, last_only=False)
    assert refused.value.reason == NO_END


def test_turns_of_a_conversation_that_the_template_refuses_raise_its_error() -> None:
    with pytest.raises(TemplateError):
        assistant_turns(chat_of("gemma"), [{"role": "system", "content": "Be brief."}, *TALK], last_only=False)


def test_turns_at_a_token_that_spans_the_border_are_what_the_policy_can_sample() -> None:
    tokenizer: Any = family_tokenizer(FAMILIES["own"])
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    chat = ChatTokenizer(tokenizer)
    talk = [TALK[0], {"role": "assistant", "content": "refused"}]
    turns = assistant_turns(chat, talk, last_only=False)
    first = turns.trained.index(True)
    assert turns.token_ids[:first] == chat.prompt_ids(talk[:1])
    assert turns.token_ids != chat.token_ids(chat.render(talk, add_generation_prompt=False))
    assert chat.text(turns.token_ids[first:]) == "refused</s>"


def test_turns_with_a_tool_call_train_on_the_call_and_not_on_its_result() -> None:
    chat = chat_of("chatml")
    final = {"role": "assistant", "content": "It is late."}
    turns = assistant_turns(chat, [{**ASKED, "tools": TOOLS}, CALLING, RESULT, final], last_only=False)
    call, answer = pieces(chat, turns)
    assert '"name": "weather"' in call
    assert call.endswith("<|im_end|>")
    assert answer == "It is late.<|im_end|>"
    assert "-4 degrees" not in call + answer
