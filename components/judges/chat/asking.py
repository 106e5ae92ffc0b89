"""Asks several questions at once: cached answers, limits, budget, retries, repairs, and when to give up.

Knows neither threads nor judges.
"""

import logging
from asyncio import sleep
from collections.abc import Iterator, Sequence
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from components.artifacts import digest
from components.config import EndpointConfig
from components.data.messages import Messages
from components.judges.chat.background import all_or_none
from components.judges.chat.endpoint import AttemptFailed, ChatEndpoint, QuestionRefused
from components.judges.chat.form import (
    Question,
    Reply,
    messages_with_form,
    read_answer,
    repair_messages,
    response_format,
)
from components.judges.chat.ledger import NOTHING, ChatAnswer, Entry, Ledger, cost_of
from components.judges.chat.limits import Budget, BudgetUsedUp, RateLimits
from components.records import JudgeUnavailable
from components.runtime import progress

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 120.0


def retrying(max_attempts: int) -> AsyncRetrying:
    """Return a policy that retries `AttemptFailed` and raises the last failure."""
    stop, retry = stop_after_attempt(max_attempts), retry_if_exception_type(AttemptFailed)
    return AsyncRetrying(stop=stop, retry=retry, wait=_wait, sleep=sleep, reraise=True)


def wait_asked_for(failure: AttemptFailed) -> float | None:
    """Return the seconds that the endpoint asks to wait, at most `LONGEST_WAIT_SECONDS`; None if it does not ask."""
    return None if failure.retry_after is None else min(failure.retry_after, LONGEST_WAIT_SECONDS)


def _wait(state: RetryCallState) -> float:
    """Return the seconds before the next attempt: as the endpoint asks, else growing and with random jitter."""
    failure = state.outcome.exception() if state.outcome is not None else None
    requested = wait_asked_for(failure) if isinstance(failure, AttemptFailed) else None
    if requested is not None:
        return requested
    growing = wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS / 2)
    return (growing + wait_random(0, FIRST_WAIT_SECONDS))(state)


FAILURES_IN_A_ROW = 3
"""Number of questions that fail for good, without an answer in between, after which the asking ends."""
FORM_REMEDY = ": set endpoint.output to json_object or text"
BYTES_PER_TOKEN = 3
"""Lower than in most texts, so that the estimate of a request's tokens is rather too high."""


class Asking:
    """Ask questions concurrently until each has a reply."""

    def __init__(
        self,
        endpoint: EndpointConfig,
        key: str | None,
        ledger: Ledger,
        limits: RateLimits,
        questions: Sequence[Question],
    ) -> None:
        self._endpoint, self._ledger, self._limits = endpoint, ledger, limits
        self._chat, self._budget = ChatEndpoint(endpoint, key), Budget(endpoint, ledger)
        self._distinct = {self._identity(question): question for question in questions}
        self._replies: dict[str, Reply] = {}
        self._failures, self._trouble = 0, ""
        self.used_up: str | None = None
        """The budget's limit that kept some questions from being asked, and how much of it is used."""

    async def run(self) -> None:
        """Ask until every question has its reply, or the budget is used up.

        Raises:
            JudgeUnavailable: The endpoint does not answer, or refuses this user.
        """
        waiting = iter(self._distinct.items())
        async with self._chat:
            await all_or_none(self._work(waiting) for _ in range(min(self._endpoint.concurrency, len(self._distinct))))

    def report(self, what: str) -> None:
        """Report the progress and, if there is one, the endpoint's latest failure."""
        text = f"{what}; {self._trouble}" if self._trouble else what
        progress.report(len(self._replies), len(self._distinct), text)

    def reply_to(self, question: Question) -> Reply:
        """Return the reply to one of the questions, after a run that stayed within the budget."""
        return self._replies[self._identity(question)]

    async def _work(self, waiting: Iterator[tuple[str, Question]]) -> None:
        for key, question in waiting:
            try:
                self._replies[key] = await self._reply(question)
            except BudgetUsedUp as used_up:
                self.used_up = str(used_up)
                return

    async def _reply(self, question: Question) -> Reply:
        """Ask a question and, if the answer is not valid, ask once for a repair."""
        messages = messages_with_form(question)
        try:
            reply = await self._answer(messages, question)
            if reply.value is None:
                reply = await self._answer(repair_messages(messages, reply), question)
        except (AttemptFailed, QuestionRefused) as failure:
            self._count_failure(failure)
            return Reply(None, f"the endpoint {failure}", "")
        return reply

    async def _answer(self, messages: Messages, question: Question) -> Reply:
        body = self._body(messages, question.schema)
        key = _request_key(body, question.repeat)
        answer = self._ledger.find(key) or await self._pay(key, body)
        reply = read_answer(answer.text or "", question.schema)
        if reply.value is None and answer.finish == "length":
            return reply._replace(
                detail=f"{reply.detail}, and was cut at endpoint.max_tokens = {self._endpoint.max_tokens}"
            )
        return reply

    async def _pay(self, key: str, body: dict[str, Any]) -> ChatAnswer:
        answer: ChatAnswer = await retrying(self._endpoint.max_attempts)(self._attempt, key, body)
        return answer

    async def _attempt(self, key: str, body: dict[str, Any]) -> ChatAnswer:
        input_tokens = sum(len(message["content"].encode()) for message in body["messages"]) // BYTES_PER_TOKEN
        reserved = await self._budget.admit(input_tokens)
        try:
            sent = await self._limits.admit(input_tokens + self._endpoint.max_tokens)
            answer = await self._chat.request(body)
            cost = None if answer.tokens is None else cost_of(self._endpoint, answer.tokens)
            self._ledger.add(Entry(key, answer, cost, reserved))
        except AttemptFailed as failure:
            self._trouble = f"the endpoint {failure}"
            self._limits.pause(wait_asked_for(failure) or 0.0)
            if failure.may_be_charged:
                self._ledger.add(Entry(key, NOTHING, None, reserved))
            raise
        finally:
            await self._budget.settle(reserved)
        self._failures, self._trouble = 0, ""
        if answer.tokens is not None:
            sent.amount = sum(answer.tokens)
        return answer

    def _count_failure(self, failure: Exception) -> None:
        model, url = self._endpoint.model, self._endpoint.url
        log.warning("gave up a question to %s: the endpoint %s", model, failure)
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            remedy = FORM_REMEDY if isinstance(failure, QuestionRefused) and "response_format" in str(failure) else ""
            raise JudgeUnavailable(
                f"judge {model} at {url} failed {self._failures} questions in a row; "
                f"last failure: the endpoint {failure}{remedy}"
            )

    def _body(self, messages: Messages, schema: dict[str, Any]) -> dict[str, Any]:
        fixed = {
            "model": self._endpoint.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self._endpoint.max_tokens,
        }
        return fixed | response_format(schema, self._endpoint.output)

    def _identity(self, question: Question) -> str:
        return _request_key(self._body(question.messages, question.schema), question.repeat)


def _request_key(body: dict[str, Any], repeat: int) -> str:
    return digest([body, repeat])
