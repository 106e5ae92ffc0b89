"""The one way to a chat endpoint: questions in, checked replies out. Knows neither judges nor stages."""

import logging
from asyncio import sleep
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from components import progress
from components.artifacts import digest
from components.config import EndpointConfig
from components.judges.chat.beside import all_or_none, run_beside
from components.judges.chat.budget import Budget, BudgetUsedUp
from components.judges.chat.endpoint import AttemptFailed, ChatEndpoint, QuestionRefused
from components.judges.chat.form import messages_with_form, read_answer, repair_messages, response_format
from components.judges.chat.key import read_key
from components.judges.chat.ledger import NOTHING, Answer, Ledger
from components.judges.chat.limits import RateLimits
from components.judges.chat.question import Question, Reply, Usage
from components.records import JudgeUnavailable, RoundStopped
from components.tokens import Messages

__all__ = ["Chat", "Question", "Reply", "Usage"]

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 120.0
FAILURES_IN_A_ROW = 3
"""Questions that failed for good, with no answer in between, after which no more are asked."""
CONNECT_SECONDS = 10.0
CHARACTERS_PER_TOKEN = 4

log = logging.getLogger(__name__)


class Chat:
    """Asks one model of one endpoint. Every answer is kept in `cache`, and none is asked for twice."""

    def __init__(self, endpoint: EndpointConfig, *, cache: Path) -> None:
        """Finds the key.

        Args:
            endpoint: What is asked, and how much may be.
            cache: Directory of the answers; it must outlive a killed run.

        Raises:
            ValueError: The key is not where the configuration says.
        """
        self._endpoint, self._key = endpoint, read_key(endpoint)
        self._ledger = Ledger(cache, endpoint)
        self._limits = RateLimits(endpoint)

    @property
    def usage(self) -> Usage:
        """What all calls came to that `cache` holds, also those of earlier starts; known after the first `ask`."""
        return self._ledger.usage

    def ask(self, questions: Sequence[Question], what: str) -> list[Reply]:
        """Asks all questions, as many at a time as the endpoint's section allows. Equal questions are asked once.

        Args:
            questions: What is asked.
            what: What the replies are, in a few words, for the progress.

        Returns:
            A reply to each question, in order; one that got no valid answer says why.

        Raises:
            JudgeUnavailable: The endpoint does not answer, or refuses this user; what it answered is kept.
            RoundStopped: `max_calls` or `max_cost` is reached, or a listener of the progress stops the round; what it answered is kept.
        """
        with self._ledger:
            asking = _Asking(self._endpoint, self._ledger, self._limits, questions)
            run_beside(asking.run(self._key), lambda: asking.report(what))
            asking.report(what)
        if asking.used_up is not None:
            raise RoundStopped(f"judge {self._endpoint.model} has used {asking.used_up}: raise it to go on; what it answered is kept")
        return [asking.replies[asking.key(question)] for question in questions]


class _Asking:
    """What goes on during one `ask`."""

    def __init__(self, endpoint: EndpointConfig, ledger: Ledger, limits: RateLimits, questions: Sequence[Question]) -> None:
        self.endpoint, self.ledger, self.limits = endpoint, ledger, limits
        self.distinct = {self.key(question): question for question in questions}
        self.replies: dict[str, Reply] = {}
        self.used_up: str | None = None
        self.trouble = ""
        self.failures = 0

    def key(self, question: Question) -> str:
        return _request_key(self._body(question.messages, question.schema), question.repeat)

    def report(self, what: str) -> None:
        text = f"{what}; {self.trouble}" if self.trouble else what
        progress.report(len(self.replies), len(self.distinct), text)

    async def run(self, key: str | None) -> None:
        self.budget = Budget(self.endpoint, self.ledger)
        limits = httpx.Limits(max_connections=self.endpoint.concurrency, max_keepalive_connections=self.endpoint.concurrency)
        # How long a request may take in all is not httpx's to say: its time-outs begin anew with every byte.
        async with httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(None, connect=CONNECT_SECONDS)) as client:
            self.chat = ChatEndpoint(self.endpoint, client, key)
            waiting = iter(self.distinct.items())
            await all_or_none(self._work(waiting) for _ in range(min(self.endpoint.concurrency, len(self.distinct))))

    async def _work(self, waiting: Iterator[tuple[str, Question]]) -> None:
        for key, question in waiting:
            try:
                self.replies[key] = await self._reply(question)
            except BudgetUsedUp as used_up:
                self.used_up = str(used_up)
                return

    async def _reply(self, question: Question) -> Reply:
        """Asks a question and, where the answer is not valid, once more."""
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
        answer = self.ledger.find(key) or await self._pay(key, body)
        reply = read_answer(answer.text or "", question.schema)
        if reply.value is None and answer.finish == "length":
            return reply._replace(detail=f"{reply.detail}, and was cut at endpoint.max_tokens = {self.endpoint.max_tokens}")
        return reply

    async def _pay(self, key: str, body: dict[str, Any]) -> Answer:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.max_attempts),
            retry=retry_if_exception_type(AttemptFailed),
            wait=_wait,
            sleep=sleep,
            reraise=True,
        )
        answer: Answer = await retrying(self._attempt, key, body)
        return answer

    async def _attempt(self, key: str, body: dict[str, Any]) -> Answer:
        input_tokens = sum(len(message["content"]) for message in body["messages"]) // CHARACTERS_PER_TOKEN
        reserved = await self.budget.admit(input_tokens)
        try:
            sent = await self.limits.admit(input_tokens + self.endpoint.max_tokens)
            answer = await self.chat.request(body)
            self.ledger.add(key, answer, at_most=reserved)
        except AttemptFailed as failure:
            self.trouble = f"the endpoint {failure}"
            if failure.retry_after is not None:
                self.limits.silence(min(failure.retry_after, LONGEST_WAIT_SECONDS))
            if failure.may_be_charged:
                self.ledger.add(key, NOTHING, at_most=reserved)
            raise
        finally:
            await self.budget.settle(reserved)
        self.failures, self.trouble = 0, ""
        if answer.tokens is not None:
            sent.amount = sum(answer.tokens)
        return answer

    def _count_failure(self, failure: Exception) -> None:
        log.warning("a question to %s was given up: the endpoint %s", self.endpoint.model, failure)
        self.failures += 1
        if self.failures >= FAILURES_IN_A_ROW:
            raise JudgeUnavailable(
                f"judge {self.endpoint.model} at {self.endpoint.url} failed {self.failures} questions in a row; the last time it {failure}"
            )

    def _body(self, messages: Messages, schema: dict[str, Any]) -> dict[str, Any]:
        fixed = {"model": self.endpoint.model, "messages": messages, "temperature": 0, "max_tokens": self.endpoint.max_tokens}
        return fixed | response_format(schema, self.endpoint.output)


def _request_key(body: dict[str, Any], repeat: int) -> str:
    return digest([body, repeat])


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the endpoint asks for, else longer each time and by chance."""
    failure = state.outcome.exception() if state.outcome is not None else None
    if isinstance(failure, AttemptFailed) and failure.retry_after is not None:
        return min(failure.retry_after, LONGEST_WAIT_SECONDS)
    growing = wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS / 2)
    return (growing + wait_random(0, FIRST_WAIT_SECONDS))(state)
