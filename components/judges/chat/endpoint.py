"""One request to a chat endpoint, adapted to its provider: an answer, or one of three kinds of failure.

Retries no failure.
"""

import asyncio
import json
import logging
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from components.config import EndpointConfig
from components.judges.chat.ledger import ChatAnswer, Tokens
from components.records import JudgeUnavailable

log = logging.getLogger(__name__)


class RequestQuirks:
    """Adapt requests to one model."""

    def __init__(self) -> None:
        self._completion_tokens = self._own_temperature = False

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the request in the form that this model accepts."""
        request = dict(body)
        if self._completion_tokens:
            request["max_completion_tokens"] = request.pop("max_tokens")
        if self._own_temperature:
            del request["temperature"]
        return request

    def learn(self, refusal: str) -> None:
        """Learn from the message of a refused request.

        Reasoning models count their thoughts as tokens, and accept no temperature.
        """
        if "max_completion_tokens" in refusal:
            self._completion_tokens = True
        elif "temperature" in refusal and "support" in refusal and not self._own_temperature:
            self._own_temperature = True
            log.warning("the endpoint accepts no temperature: the model uses its own, so its answers may vary")


CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 2 * 2**20
MAX_QUOTED_CHARACTERS = 300
MAY_PASS = frozenset({408, 425, 429})
REFUSES_THE_QUESTION = frozenset({400, 413, 422})
REMEDIES = {
    401: "the key from endpoint.api_key_from must be valid",
    402: "check the balance of the key's account",
    403: "the key from endpoint.api_key_from must have access to this model",
    404: "endpoint.url must be the base address, which often ends in /v1, and endpoint.model a model of the endpoint",
}


class AttemptFailed(Exception):
    """An attempt failed in a way that may pass; the message continues 'the endpoint ...'."""

    def __init__(self, message: str, *, retry_after: float | None = None, may_be_charged: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the endpoint asks to wait."""
        self.may_be_charged = may_be_charged
        """Whether the endpoint may have done the work."""


class QuestionRefused(Exception):
    """The endpoint refuses the question for good; the message continues 'the endpoint ...'."""


class ChatEndpoint:
    """Send requests over one client that keeps its connections; open within an `async with` block."""

    def __init__(self, endpoint: EndpointConfig, key: str | None) -> None:
        self._endpoint, self._key = endpoint, key
        self._url = f"{endpoint.url.rstrip('/')}/chat/completions"
        self._quirks = RequestQuirks()
        # A short compressed answer may expand to a long one.
        headers = {"Accept-Encoding": "identity"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        limits = httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
        # The time-outs of httpx restart with every byte, so `_request` limits the duration of a whole request.
        self._client = httpx.AsyncClient(
            headers=headers, limits=limits, timeout=httpx.Timeout(None, connect=CONNECT_SECONDS)
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def request(self, body: dict[str, Any]) -> ChatAnswer:
        """Send a request and read its answer, all within the endpoint's time-out.

        Raises:
            AttemptFailed: The same request may succeed later.
            QuestionRefused: The same request cannot succeed, but other questions may.
            JudgeUnavailable: No question can succeed.
        """
        adapted = self._quirks.apply(body)
        try:
            return await self._request(adapted)
        except QuestionRefused as refusal:
            self._quirks.learn(str(refusal))
            if self._quirks.apply(body) == adapted:
                raise
        return await self.request(body)

    async def _request(self, body: dict[str, Any]) -> ChatAnswer:
        seconds = self._endpoint.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                status, headers, content = await self._exchange(body)
        except TimeoutError:
            raise AttemptFailed(f"did not finish its answer within {seconds:g} s", may_be_charged=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise AttemptFailed(f"cannot be reached ({_one_line(error)})") from None
        except httpx.TransportError as error:
            raise AttemptFailed(f"lost the connection ({_one_line(error)})") from None
        text = self._without_key(content.decode("utf-8", errors="replace"))
        if status == httpx.codes.OK:
            return _read(text)
        raise self._failure(status, headers, text)

    async def _exchange(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        async with self._client.stream("POST", self._url, json=body) as response:
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise AttemptFailed(f"answered with more than {MAX_ANSWER_BYTES} bytes", may_be_charged=True)
            return response.status_code, response.headers, bytes(content)

    def _failure(self, status: int, headers: httpx.Headers, text: str) -> Exception:
        message = f"answered {status}{_excerpt(text)}"
        if status >= 500 or status in MAY_PASS:
            return AttemptFailed(message, retry_after=_retry_after(headers, time.time()))
        if status in REFUSES_THE_QUESTION:
            return QuestionRefused(message)
        remedy = REMEDIES.get(status, "endpoint.url must be the base address of an OpenAI-compatible endpoint")
        return JudgeUnavailable(f"{self._url} (model {self._endpoint.model}) {message}: {remedy}")

    def _without_key(self, text: str) -> str:
        """Return the text without the key, in case the endpoint repeats it."""
        return text.replace(self._key, "***") if self._key is not None and len(self._key) >= 8 else text


def _read(text: str) -> ChatAnswer:
    try:
        content = json.loads(text)
        choice = content["choices"][0]
        reply = choice["message"].get("content") or ""
        finish = choice.get("finish_reason") or ""
        usage = content.get("usage") or {}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise AttemptFailed(
            f"sent something that is not a chat completion{_excerpt(text)}", may_be_charged=True
        ) from None
    if not isinstance(reply, str):
        raise AttemptFailed(f"sent an answer that is not text{_excerpt(text)}", may_be_charged=True)
    return ChatAnswer(reply, str(finish), _tokens(usage))


def _tokens(usage: Any) -> Tokens | None:
    into, out = (
        (usage.get("prompt_tokens"), usage.get("completion_tokens")) if isinstance(usage, dict) else (None, None)
    )
    return Tokens(into, out) if type(into) is int and type(out) is int and into >= 0 and out >= 0 else None


def _retry_after(headers: httpx.Headers, now: float) -> float | None:
    """Return the seconds to wait from the header, which holds seconds or a date; None if it holds neither."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def _excerpt(text: str) -> str:
    line = " ".join(text.split())[:MAX_QUOTED_CHARACTERS]
    return f" ({line})" if line else " (empty body)"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_QUOTED_CHARACTERS] or type(error).__name__
