"""An outage is told from prompts that fail, and a failure by its status and words."""

import pytest

from components.judges.chat.failures import AttemptFailed, EndpointRefused, QuestionRefused, failure_of
from components.judges.chat.outage import Outage

BUSY, REFUSED = AttemptFailed("answered 503"), QuestionRefused("answered 400", body="", about_the_prompt=False)
LOST = AttemptFailed("cannot be reached", was_reached=False)


@pytest.mark.parametrize(
    "words",
    [
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "The request was rejected because it was considered high risk",
        '{"error": {"code": "content_filter"}}',
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
        "This model's maximum context length is 4096 tokens, however you requested 5000 tokens",
        '{"error": {"code": "context_length_exceeded"}}',
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Please reduce the length of the messages or completion.",
        "Input data may contain inappropriate content.",
        "Content Exists Risk",
        "Content violates usage guidelines.",
        "系统检测到输入或生成内容可能包含不安全或敏感内容",
        '{"error": {"code": "json_validate_failed", "message": "Failed to generate JSON."}}',
        "Blocked by guardrail",
    ],
)
@pytest.mark.parametrize("status", [400, 403])
def test_refusal_of_a_prompt_is_known_by_its_words(words: str, status: int) -> None:
    failure = failure_of(status, words)
    assert isinstance(failure, QuestionRefused)
    assert failure.about_the_prompt


@pytest.mark.parametrize(
    "words",
    [
        "Unsupported parameter: 'max_tokens' is not supported with this model.",
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        'Invalid JSON payload received. Unknown name "x": Cannot find field. "fieldViolations": []',
        "API key not valid. Please pass a valid API key.",
        "response_format.type json_schema is not supported",
    ],
)
def test_refusal_of_the_form_is_not_the_prompts(words: str) -> None:
    failure = failure_of(400, words)
    assert isinstance(failure, QuestionRefused)
    assert not failure.about_the_prompt


@pytest.mark.parametrize("status", [408, 409, 424, 425, 429, 500, 502, 503, 504, 524, 529])
def test_status_that_may_pass(status: int) -> None:
    failure = failure_of(status, "x", retry_after=3.0)
    assert isinstance(failure, AttemptFailed)
    assert failure.retry_after == 3.0


@pytest.mark.parametrize("status", [401, 402, 404, 405, 418])
def test_status_that_every_question_meets_is_the_endpoints(status: int) -> None:
    failure = failure_of(status, "Content filter")
    assert isinstance(failure, EndpointRefused)
    assert Outage(has_answered=True).fails(failure, prompt="a", question="a1")


def test_body_is_told_in_one_printable_line() -> None:
    assert str(failure_of(400, "one\n\x1b[31mtwo\u2028three\ud83d" + "x" * 999)).startswith(
        "answered 400 (one [31mtwo three xxx"
    )
    assert str(failure_of(500, " \n")) == "answered 500 (empty body)"


def test_questions_of_one_prompt_are_no_outage_and_three_prompts_are() -> None:
    outage = Outage(has_answered=False)
    assert not any(outage.fails(BUSY, prompt="a", question=str(number)) for number in range(12))
    assert not outage.fails(REFUSED, prompt="b", question="b1")
    assert outage.fails(BUSY, prompt="c", question="c1")
    assert outage.questions == 14


def test_answer_between_them_blames_the_prompts_for_good() -> None:
    outage = Outage(has_answered=False)
    for prompt in "abcdef":
        assert not outage.fails(BUSY, prompt=prompt, question=prompt)
        outage.answered()
    assert not any(outage.fails(BUSY, prompt=prompt, question=prompt) for prompt in "abcdef")
    assert [outage.fails(BUSY, prompt=prompt, question=prompt) for prompt in "xyz"] == [False, False, True]


def test_questions_that_reach_nobody_count_one_by_one() -> None:
    outage = Outage(has_answered=True)
    assert [outage.fails(LOST, prompt="a", question=str(number)) for number in range(3)] == [False, False, True]


def test_refusals_are_the_prompts_once_the_endpoint_has_answered() -> None:
    outage = Outage(has_answered=True)
    assert not any(outage.fails(REFUSED, prompt=str(number), question=str(number)) for number in range(99))
