from typing import Any

import pytest

from components.config import FeedbackConfig
from components.feedback.selection import Selection, select, standing
from components.feedback.store import Thumb
from tests.feedback.thumbs import thumb

SETTINGS = FeedbackConfig(use="only", min_rows=2)


def chosen(*rows: Thumb, **changes: Any) -> Selection:
    options: dict[str, Any] = {
        "taken": (),
        "feedback": SETTINGS,
        "singles": True,
        "cut_answers": True,
        "phone_region": "US",
    }
    return select(rows, **(options | changes))


def ids(selection: Selection) -> list[str]:
    return [row.row_id for row in selection.rows]


def test_selection_takes_what_no_round_took_oldest_first() -> None:
    rows = [thumb(number) for number in range(5)]
    assert ids(chosen(*rows, taken={"r1", "r3"})) == ["r0", "r2", "r4"]
    capped = chosen(*rows, taken={"r1"}, feedback=SETTINGS.model_copy(update={"max_rows": 2}))
    assert ids(capped) == ["r0", "r2"]
    assert capped.waiting == 2


def test_selection_of_two_thumbs_on_one_answer_takes_the_later() -> None:
    first, second = thumb(1), thumb(2, conversation_id="v1", completion_id="a1", response="answer 1", thumb="down")
    selection = chosen(first, second)
    assert ids(selection) == ["r2"]
    assert selection.left_out == {"replaced by a later thumb on the same answer": 1}
    assert standing([first, second, thumb(3)]) == [second, thumb(3)]


@pytest.mark.parametrize(
    ("changes", "options", "cause"),
    [
        ({"served": False}, {}, "not known to be the server's answers"),
        ({"messages": None, "response": None, "erased_at": "now"}, {}, "deleted after preferences.feedback.ret"),
        ({}, {"singles": False}, "without a correction, which pairs need"),
        ({"finish_reason": "length"}, {"cut_answers": False}, "up for an answer that the length limit cut"),
    ],
)
def test_selection_leaves_out_what_cannot_be_trained_on(
    changes: dict[str, Any], options: dict[str, Any], cause: str
) -> None:
    selection = chosen(thumb(1, **changes), **options)
    assert ids(selection) == []
    ((name, number),) = selection.left_out.items()
    assert name.startswith(cause)
    assert number == 1


def test_selection_takes_unserved_answers_only_if_asked() -> None:
    assert ids(chosen(thumb(1, served=False), feedback=FeedbackConfig(include_unserved=True))) == ["r1"]


def test_selection_takes_a_cut_answer_as_the_worse_one() -> None:
    rows = [thumb(1, finish_reason="length", thumb="down"), thumb(2, finish_reason="length", correction="Better.")]
    assert ids(chosen(*rows, cut_answers=False)) == ["r1", "r2"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"response": "Write to jane.doe@acme-widgets.com."}, "personal_data: e-mail address"),
        ({"messages": '[{"role": "user", "content": "I am at +49 30 901820."}]'}, "personal_data: telephone number"),
        ({"correction": "Use ghp_" + "a1B2" * 9 + "."}, "secrets: GitHub token"),
    ],
)
def test_selection_sets_personal_data_aside_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    selection = chosen(thumb(1, **changes), thumb(2))
    assert ids(selection) == ["r2"]
    assert [tuple(each) for each in selection.quarantined] == [("r1", reason)]


def test_selection_says_what_is_too_little() -> None:
    assert chosen(thumb(1), thumb(2, thumb="down")).shortage(SETTINGS) is None
    assert chosen(thumb(1, correction="Better."), thumb(2, correction="Best.")).shortage(SETTINGS) is None
    assert chosen(thumb(1), thumb(2, served=False)).shortage(SETTINGS) == (
        "1 usable thumbs are unused (1 not known to be the server's answers), fewer than "
        "preferences.feedback.min_rows = 2"
    )
    assert chosen(thumb(1), thumb(2)).shortage(SETTINGS) == "all 2 unused thumbs are up: a round needs both kinds"
