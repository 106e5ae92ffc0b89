"""Bodies of requests, and errors in the form of the OpenAI API."""

from starlette.requests import Request
from starlette.responses import Response

from components.serving.gateway.upstream import error_body

MOST_PAGE_BYTES = 2**20
"""Of a request that is no request to the engine."""


async def read_body(request: Request, most: int) -> bytes | None:
    """Return a request's body; None if it is larger than allowed."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


def refusal(status: int, message: str, code: str) -> Response:
    """Return an error in the form of the OpenAI API."""
    return Response(error_body(message, code), status_code=status, media_type="application/json")


def unauthorised() -> Response:
    """Return the answer to a request without the key."""
    response = refusal(401, "this server requires its key as a bearer token", "invalid_api_key")
    response.headers["www-authenticate"] = "Bearer"
    return response
