"""Asks several questions at once: cached answers, limits, budget, retries, repairs, and when to give up.

Knows neither threads nor judges.
"""

import logging
from asyncio import CancelledError, sleep
from collections import deque
from collections.abc import Sequence
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
from components.judges.chat.endpoint import ChatEndpoint
from components.judges.chat.failures import AttemptFailed, EndpointRefused, Failure, QuestionRefused
from components.judges.chat.form import Question, Reply, messages_with_form
from components.judges.chat.ledger import NOTHING, ChatAnswer, Entry, Ledger, cost_of
from components.judges.chat.limits import Budget, BudgetUsedUp, RateLimits
from components.judges.chat.outage import FAILURES_IN_A_ROW, Outage
from components.judges.chat.rehearsal import tokens_at_most
from components.judges.chat.replies import Given, is_cut_thought, read_reply
from components.judges.chat.request import remedy_for, request_body
from components.records import JudgeUnavailable
from components.runtime import progress

__all__ = ["FAILURES_IN_A_ROW", "Asking"]

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 120.0


def retrying(max_attempts: int) -> AsyncRetrying:
    """Return a policy that retries `AttemptFailed` and raises the last failure."""
    stop, retry = stop_after_attempt(max_attempts), retry_if_exception_type(AttemptFailed)
    return AsyncRetrying(stop=stop, retry=retry, wait=_wait, sleep=sleep, reraise=True)


def wait_asked_for(failure: AttemptFailed) -> float | None:
    """Return the seconds that the endpoint asks to wait, between the two limits above; None if it does not ask."""
    if failure.retry_after is None:
        return None
    return min(max(failure.retry_after, FIRST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)


def _wait(state: RetryCallState) -> float:
    """Return the seconds before the next attempt: as the endpoint asks, else growing and with random jitter.

    An endpoint that asks for no wait, or for one until a moment in the past, is not asked faster than one that says
    nothing.
    """
    failure = state.outcome.exception() if state.outcome is not None else None
    if isinstance(failure, AttemptFailed) and (failure.retry_after or 0.0) >= FIRST_WAIT_SECONDS:
        requested = wait_asked_for(failure)
        assert requested is not None
        return requested
    growing = wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS / 2)
    return (growing + wait_random(0, FIRST_WAIT_SECONDS))(state)


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
        self._replies = self._paid_replies()
        self._waiting = deque(item for item in self._distinct.items() if item[0] not in self._replies)
        self._warn_of_cut_thoughts()
        self._outage, self._trouble = Outage(has_answered=bool(self._replies)), ""
        self.used_up: str | None = None
        """The budget's limit that kept some questions from being asked, and how much of it is used."""

    async def run(self) -> None:
        """Ask until every question has its reply, or the budget is used up.

        Raises:
            JudgeUnavailable: The endpoint does not answer, or refuses this user.
        """
        async with self._chat:
            await all_or_none(self._work() for _ in range(min(self._endpoint.concurrency, len(self._waiting))))

    def report(self, what: str) -> None:
        """Report the progress and, if there is one, the endpoint's latest failure."""
        text = f"{what}; {self._trouble}" if self._trouble else what
        progress.report(len(self._replies), len(self._distinct), text)

    def reply_to(self, question: Question) -> Reply:
        """Return the reply to one of the questions, after a run that stayed within the budget."""
        return self._replies[self._identity(question)]

    def _paid_replies(self) -> dict[str, Reply]:
        """Return the replies that are paid for already."""
        paid = {key: self._paid(question) for key, question in self._distinct.items()}
        return {key: given.reply for key, given in paid.items() if given is not None and not given.may_be_repaired}

    def _warn_of_cut_thoughts(self) -> None:
        """Say before anything is paid again that an earlier start got nothing but thoughts that were cut."""
        earlier = [
            given
            for _, question in self._waiting
            if (given := self._find(messages_with_form(question), question)) is not None
        ]
        if self._replies or not earlier or len(earlier) < len(self._waiting) or not all(map(is_cut_thought, earlier)):
            return
        warning = (
            f"an earlier start asked all {len(earlier)} questions of {self._endpoint.model} with endpoint.max_tokens = "
            f"{self._endpoint.max_tokens}, and every answer was a thought that was cut: raise it; they are asked, and "
            "paid, again"
        )
        log.warning("%s", warning)
        progress.report(0, len(self._distinct), warning)

    async def _work(self) -> None:
        while self._waiting:
            key, question = self._waiting.popleft()
            try:
                self._replies[key] = await self._reply(key, question)
            except BudgetUsedUp as used_up:
                self.used_up = str(used_up)
                return

    async def _reply(self, key: str, question: Question) -> Reply:
        """Ask a question and, if the answer is not valid, ask once for a repair."""
        messages = messages_with_form(question)
        given = self._paid(question)
        try:
            if given is None:
                given = await self._ask(messages, question)
            if given.may_be_repaired:
                return (await self._ask(given.repair(messages), question)).reply
            return given.reply
        except QuestionRefused as failure:
            if given is not None:
                return given.reply._replace(detail=f"{given.reply.detail}; asked for a repair, the endpoint {failure}")
            self._check_outage(failure, key, question)
            return Reply(None, f"the endpoint {failure}", "")
        except (AttemptFailed, EndpointRefused) as failure:
            self._check_outage(failure, key, question)
            return Reply(None, f"the endpoint {failure}", "")

    def _paid(self, question: Question) -> Given | None:
        """Return the reply that is paid for, with its repair if that is paid for too; None if there was no answer.

        So what was of no use in an earlier start, such as an empty answer, is asked for again.
        """
        messages = messages_with_form(question)
        first = self._find(messages, question)
        if first is None or first.is_valid:
            return first
        repairs = [self._find(repair(messages), question) for repair in (first.paid_repair, first.repair)]
        answers = [given for given in repairs if given is not None and given.is_answer]
        if answers:
            return max(answers, key=lambda given: given.is_valid)._replace(may_be_repaired=False)
        return first if first.is_answer else None

    def _find(self, messages: Messages, question: Question) -> Given | None:
        answer = self._ledger.find(_request_key(self._body(messages, question), question.repeat))
        return None if answer is None else self._read(answer, question)

    async def _ask(self, messages: Messages, question: Question) -> Given:
        body = self._body(messages, question)
        key = _request_key(body, question.repeat)
        return self._read(await retrying(self._endpoint.max_attempts)(self._attempt, key, body), question)

    def _read(self, answer: ChatAnswer, question: Question) -> Given:
        return read_reply(answer, question.schema, max_tokens=self._endpoint.max_tokens)

    async def _attempt(self, key: str, body: dict[str, Any]) -> ChatAnswer:
        input_tokens = tokens_at_most(body["messages"])
        reserved = await self._budget.admit(input_tokens)
        try:
            sent = await self._limits.admit(input_tokens + self._endpoint.max_tokens)
            answer = await self._request(key, body, reserved)
        except AttemptFailed as failure:
            self._trouble = f"the endpoint {failure}"
            self._limits.pause(wait_asked_for(failure) or 0.0)
            if failure.may_be_charged:
                self._note(key, NOTHING._replace(tokens=failure.tokens), reserved)
            raise
        finally:
            await self._budget.settle(reserved)
        self._outage.answered()
        self._trouble = ""
        if answer.tokens is not None:
            sent.amount = sum(answer.tokens)
        return answer

    async def _request(self, key: str, body: dict[str, Any], reserved: float) -> ChatAnswer:
        """Send a request and note its answer, or that it may have been charged when it was cut off."""
        try:
            answer = await self._chat.request(body)
        except CancelledError:
            self._note(key, NOTHING, reserved)
            raise
        self._note(key, answer, reserved)
        return answer

    def _note(self, key: str, answer: ChatAnswer, reserved: float) -> None:
        cost = None if answer.tokens is None else cost_of(self._endpoint, answer.tokens)
        self._ledger.add(Entry(key, answer, cost, reserved))

    def _check_outage(self, failure: Failure, key: str, question: Question) -> None:
        """Note that a question failed for good, and end the asking if it is the endpoint that fails."""
        model, url = self._endpoint.model, self._endpoint.url
        log.warning("gave up a question to %s: the endpoint %s", model, failure)
        if not self._outage.fails(failure, prompt=question.prompt or key, question=key):
            self._postpone(question.prompt)
            return
        self._waiting.clear()
        if isinstance(failure, EndpointRefused):
            raise JudgeUnavailable(f"{self._chat.url} (model {model}) {failure}: {failure.remedy}")
        remedy = remedy_for(self._endpoint, failure.body) if isinstance(failure, QuestionRefused) else ""
        raise JudgeUnavailable(
            f"judge {model} at {url} failed {self._outage.questions} questions in a row; "
            f"last failure: the endpoint {failure}{remedy}"
        )

    def _postpone(self, prompt: str) -> None:
        """Ask the other questions about a prompt last: questions about other prompts soon tell what is at fault."""
        if prompt:
            self._waiting = deque(sorted(self._waiting, key=lambda item: item[1].prompt == prompt))

    def _body(self, messages: Messages, question: Question) -> dict[str, Any]:
        return request_body(self._endpoint, messages, question.schema)

    def _identity(self, question: Question) -> str:
        return _request_key(self._body(question.messages, question), question.repeat)


def _request_key(body: dict[str, Any], repeat: int) -> str:
    return digest([body, repeat])
