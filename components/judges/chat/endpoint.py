"""One request to a chat endpoint, adapted to its provider: an answer, or one of the kinds of failure.

Retries no failure.
"""

import asyncio
import time
import zlib
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

from components.config import EndpointConfig
from components.judges.chat.completion import read_completion
from components.judges.chat.failures import (
    REMEDIES,
    AttemptFailed,
    EndpointRefused,
    QuestionRefused,
    failure_of,
    one_line,
)
from components.judges.chat.ledger import ChatAnswer
from components.judges.chat.request import Refusals
from components.runtime.addresses import is_loopback

__all__ = ["REMEDIES", "ChatEndpoint"]

CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 2 * 2**20
PAGE = "/chat/completions"
KEEPS_THE_BODY = frozenset({307, 308})
MAX_REDIRECTS = 3


class Response(NamedTuple):
    """A response whose body is read."""

    status: int
    headers: httpx.Headers
    content: bytes


class ChatEndpoint:
    """Send requests over one client that keeps its connections; open within an `async with` block."""

    def __init__(self, endpoint: EndpointConfig, key: str | None) -> None:
        self._endpoint, self._key = endpoint, key
        self.url = f"{endpoint.url.rstrip('/')}{PAGE}"
        self._address, self._refusals = self.url, Refusals()
        # A short compressed answer may expand to a long one.
        headers = {"Accept-Encoding": "identity"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        limits = httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
        # The time-outs of httpx restart with every byte, so `_request` limits the duration of a whole request.
        # A redirect may lead to another host, which must not see the key: httpx follows none.
        self._client = httpx.AsyncClient(
            headers=headers,
            limits=limits,
            # With a transport of its own, a client ignores the environment's proxies.
            transport=httpx.AsyncHTTPTransport(limits=limits) if is_loopback(endpoint.url) else None,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            follow_redirects=False,
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
            EndpointRefused: No question can succeed.
        """
        refusals = self._refusals
        while True:
            request = refusals.adapt(body)
            try:
                answer = await self._request(request)
            except QuestionRefused as refusal:
                suspected = refusals.suspect(request, refusal.body)
                if suspected is None:
                    raise
                refusals = suspected
            else:
                self._refusals = self._refusals.with_more(refusals)
                return answer

    async def _request(self, body: dict[str, Any]) -> ChatAnswer:
        seconds = self._endpoint.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                response = await self._follow(body)
        except TimeoutError:
            raise AttemptFailed(f"did not finish its answer within {seconds:g} s", may_be_charged=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise AttemptFailed(f"cannot be reached ({_cause(error)})", was_reached=False) from None
        except httpx.TransportError as error:
            # The request may have arrived, and the answer been made.
            raise AttemptFailed(f"lost the connection ({_cause(error)})", may_be_charged=True) from None
        text = self._without_key(_decoded(response).decode("utf-8-sig", errors="replace"))
        if httpx.codes.is_success(response.status):
            return read_completion(text)
        raise failure_of(response.status, text, retry_after=_retry_after(response.headers, time.time()))

    async def _follow(self, body: dict[str, Any]) -> Response:
        """Send the request to where the endpoint says, as long as that is the same host."""
        url = self._address
        for _ in range(MAX_REDIRECTS):
            response = await self._exchange(url, body)
            if not httpx.codes.is_redirect(response.status):
                return response
            url = self._target(url, response)
            if response.status == httpx.codes.PERMANENT_REDIRECT:
                self._address = url
        raise EndpointRefused(
            f"answered with {MAX_REDIRECTS} redirects, the last to {url}", "endpoint.url must be the base address"
        )

    def _target(self, url: str, response: Response) -> str:
        """Return where a redirect leads, if the request may be sent there.

        Raises:
            EndpointRefused: It leads to another host, which must not see the key, or asks for another method.
        """
        location = response.headers.get("location", "")
        try:
            target = httpx.URL(url).join(location)
        except (httpx.InvalidURL, ValueError):
            target = httpx.URL()
        here = httpx.URL(url)
        same_host = (target.scheme, target.host, target.port) == (here.scheme, here.host, here.port)
        if same_host and location and response.status in KEEPS_THE_BODY:
            return str(target)
        base = self._without_key(one_line(str(target.copy_with(query=None, fragment=None)).removesuffix(PAGE)))
        raise EndpointRefused(
            f"answered {response.status} and leads to {base or 'no address'}",
            "set endpoint.url to the base address that answers itself",
        )

    async def _exchange(self, url: str, body: dict[str, Any]) -> Response:
        content = bytearray()
        async with self._client.stream("POST", url, json=body) as response:
            try:
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise AttemptFailed(f"answered with more than {MAX_ANSWER_BYTES} bytes", may_be_charged=True)
            except httpx.TransportError as error:
                raise AttemptFailed(
                    f"lost the connection within its answer ({_cause(error)})", may_be_charged=response.is_success
                ) from None
            return Response(response.status_code, response.headers, bytes(content))

    def _without_key(self, text: str) -> str:
        """Return the text without the key, in case the endpoint repeats it."""
        return text.replace(self._key, "***") if self._key is not None and len(self._key) >= 8 else text


def _decoded(response: Response) -> bytes:
    """Return the body, expanded if it is compressed although no compression was asked for.

    Raises:
        AttemptFailed: It cannot be expanded, or is too long.
    """
    content, encoding = response.content, response.headers.get("content-encoding", "").strip().lower()
    charged = httpx.codes.is_success(response.status)
    if content.startswith(b"\x1f\x8b") or (encoding == "deflate" and not content.lstrip().startswith((b"{", b"["))):
        expander = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            content = expander.decompress(content, MAX_ANSWER_BYTES + 1)
        except zlib.error as error:
            raise AttemptFailed(f"sent a compressed body that is damaged ({error})", may_be_charged=charged) from None
        if len(content) > MAX_ANSWER_BYTES:
            raise AttemptFailed(f"answered with more than {MAX_ANSWER_BYTES} bytes", may_be_charged=charged)
        if not expander.eof:
            raise AttemptFailed("sent a compressed body that ends early", may_be_charged=charged)
    elif encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise AttemptFailed(
            f"sent a body in the encoding {one_line(encoding)}, which was not asked for", may_be_charged=charged
        )
    return content


def _retry_after(headers: httpx.Headers, now: float) -> float | None:
    """Return the seconds to wait from the header, which holds seconds or a date; None if it holds neither."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _cause(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
