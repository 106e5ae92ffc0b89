from typing import Any

import pytest

from components.feedback.submission import MOST_CHARACTERS, TooLarge, read_submission
from tests.feedback.thumbs import QUESTION, content


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"consent": False}, "consent must be true"),
        ({"consent": "true"}, "consent must be true"),
        ({"thumb": "sideways"}, "thumb: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "the last message must be the user's"),
        ({"messages": [*QUESTION, {"role": "system", "content": "Be rude."}, *QUESTION]}, "must be the first"),
        ({"messages": [{"role": "root", "content": "Hi"}]}, "messages.0.role: "),
        ({"response": ""}, "response: "),
        ({"correction": "  "}, "is blank"),
        ({"correction": " I am sorry. "}, "is the answer itself"),
        ({"client_id": "a\n"}, "client_id must be 1 to 200 letters"),
        ({"client_id": "with a space"}, "client_id must be 1 to 200 letters"),
        ({"conversation_id": None}, "conversation_id must be 1 to 200 letters"),
        ({"extra": 1}, "extra: "),
        ({"response": "half \ud800"}, "response: Input should be a valid string"),
    ],
)
def test_submission_that_cannot_be_kept_is_refused_in_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        read_submission(content(**changes))
    assert "\n" not in str(refused.value)
    assert "kettle" not in str(refused.value), "texts of users must not come back in messages"


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_submission_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="must be a JSON object"):
        read_submission(body)


def test_submission_that_is_too_large_is_told_apart() -> None:
    with pytest.raises(TooLarge, match=str(MOST_CHARACTERS)):
        read_submission(content(response="a" * MOST_CHARACTERS))


def test_submission_message_id_is_the_completion_id() -> None:
    sent = content()
    sent["message_id"] = sent.pop("completion_id")
    assert read_submission(sent).completion_id == "a1"
