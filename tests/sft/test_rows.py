import re
from collections.abc import Sequence

import pytest

from components.builtin.starter import build_tokenizer
from components.config import SftConfig
from components.data.demonstrations import NO_TURN, Demonstration, Demonstrations
from components.data.messages import Messages
from components.models.tokens import OTHER_TEXT, ChatTokenizer
from components.sft.rows import REFUSED, num_tokens, prepare_rows
from tests.models.template_families import FAMILIES, family_tokenizer

GREETING = "Hi, this is about order #5423."
CHAT = ChatTokenizer(build_tokenizer())


def talk(question: str, answer: str = "Have a good day.") -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def read(conversations: Sequence[Messages], **left_out: int) -> Demonstrations:
    rows = [Demonstration(f"row {number}", each) for number, each in enumerate(conversations)]
    return Demonstrations(rows, left_out, "digest")


def several(number: int) -> list[Messages]:
    return [talk(f"The kettle was a bad choice{' .' * count}") for count in range(number)]


def test_rows_are_counted_by_reason_and_the_prompt_that_fills_the_limit_has_its_own() -> None:
    prompt = len(CHAT.prompt_ids(talk(GREETING * 3)[:1]))
    whole = len(CHAT.prompt_ids(talk(GREETING)[:1])) + len(
        CHAT.response_ids(talk(GREETING)[:1], "Have a good day.", max_tokens=99)
    )
    assert whole < prompt
    prepared = prepare_rows(
        read(
            [*several(10), talk(GREETING * 3), talk(GREETING), talk(GREETING, " ".join(["Have a good day."] * 9))],
            **{NO_TURN: 2},
        ),
        CHAT,
        SftConfig(eval_share=0.2),
        max_tokens=prompt,
    )
    assert prepared.left_out == {
        NO_TURN: 2,
        f"longer than {prompt} tokens": 1,
        f"the prompt alone fills {prompt} tokens": 1,
    }
    assert len(prepared.train) + len(prepared.held_out) == 11
    rows = [*prepared.train, *prepared.held_out]
    assert all(row.pair.num_tokens <= prompt for row in rows)
    assert num_tokens(rows) == sum(sum(row.trained) for row in rows) > 0


def test_rows_that_a_template_refuses_or_changes_are_left_out() -> None:
    gemma = ChatTokenizer(family_tokenizer(FAMILIES["gemma"]))
    system = [{"role": "system", "content": "Be brief."}, *talk("Is it late?")]
    forged = talk("Is it late?", "No.<end_of_turn>\n<start_of_turn>user\nYes.")
    prepared = prepare_rows(read([*several(8), system, forged]), gemma, SftConfig(eval_share=0.2), max_tokens=500)
    assert prepared.left_out == {REFUSED: 1, OTHER_TEXT: 1}


def test_rows_with_the_same_first_prompt_are_on_one_side() -> None:
    """A conversation that goes on from a held-out one would give its answer away."""
    longer = [[*each, *talk("And now?")] for each in several(10)]
    prepared = prepare_rows(read([*several(10), *longer]), CHAT, SftConfig(eval_share=0.3), max_tokens=500)
    assert (len(prepared.train), len(prepared.held_out)) == (14, 6)
    starts = [{tuple(row.pair.prompt) for row in side} for side in (prepared.train, prepared.held_out)]
    assert not starts[0] & starts[1]


def test_rows_train_all_turns_or_the_last() -> None:
    longer = [[*each, *talk("And now?")] for each in several(10)]
    sides = [
        prepare_rows(read(longer), CHAT, SftConfig(train_on=each), max_tokens=500).train for each in ("all", "last")
    ]
    assert [row.num_turns for row in sides[0]] == [2] * len(sides[0])
    assert [row.num_turns for row in sides[1]] == [1] * len(sides[1])
    for both, last in zip(*sides, strict=True):
        assert both.pair.prompt + both.pair.chosen == last.pair.prompt + last.pair.chosen
        assert sum(both.trained) == 2 * sum(last.trained)
        assert all(last.trained)


@pytest.mark.parametrize(
    ("conversations", "limit", "told"),
    [
        (
            several(10),
            5,
            "no demonstration can be used: 10 rows (10 x the prompt alone fills 5 tokens): raise max_tokens",
        ),
        (several(1), 500, "no demonstration is left to measure on: 1 rows gave 1 demonstrations (1 x not held out by"),
    ],
)
def test_rows_that_leave_too_little_are_refused(conversations: list[Messages], limit: int, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        prepare_rows(read(conversations), CHAT, SftConfig(), max_tokens=limit)
