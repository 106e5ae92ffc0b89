"""Who may ask: a client with the key, or a browser whose user entered the key once."""

import hmac
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from components.web.cookies import CookieSigner, keep_cookie, new_browser
from components.web.rate_limit import TokenBuckets

COOKIE = "ratchet_chat"
MAX_AGE = 30 * 24 * 3600
"""Seconds for which a browser stays signed in."""
CSRF_HEADER = "x-csrf-token"


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # JSON may hold what is no text


@dataclass(frozen=True)
class Session:
    """A browser that is signed in."""

    browser: str
    csrf: str
    """What its page sends with each request that changes something."""


class Door:
    """Knows the key, and signs what browsers keep with it: another key signs all of them out."""

    def __init__(self, key: str, *, secure: bool) -> None:
        """Take the key.

        Args:
            key: The serving key.
            secure: Whether browsers come over HTTPS only.
        """
        self._key, self._secure = key, secure
        self._signer = CookieSigner(key)
        self._tries = TokenBuckets(per_second=0.2, burst=10)

    def has_key(self, request: Request) -> bool:
        """Return whether a request bears the key."""
        tokens = request.headers.getlist("authorization")
        return len(tokens) == 1 and hmac.compare_digest(tokens[0].encode("latin-1"), f"Bearer {self._key}".encode())

    def session(self, request: Request) -> Session | None:
        """Return the session of a request's browser; None if it is not signed in."""
        values = self._signer.read(request.cookies.get(COOKIE), max_age=MAX_AGE)
        if values is None or "browser" not in values:
            return None
        return Session(values["browser"], self._signer.csrf_token(values["browser"]))

    def may_change(self, request: Request) -> Session | None:
        """Return the session of a request that came from a page of ours; None if another site may have sent it."""
        session = self.session(request)
        token = request.headers.get(CSRF_HEADER)
        if session is None or not self._signer.is_csrf_token(token, session.browser):
            return None
        return session

    def may_try(self, request: Request) -> bool:
        """Return whether this client may try a key, which it may a few times in a minute."""
        return self._tries.take(request.client.host if request.client else "")

    def is_key(self, guess: object) -> bool:
        """Return whether this is the key."""
        return isinstance(guess, str) and hmac.compare_digest(_bytes(guess.strip()), _bytes(self._key))

    def new_session(self) -> Session:
        """Return a session for a browser that has just shown the key."""
        browser = new_browser()
        return Session(browser, self._signer.csrf_token(browser))

    def keep(self, session: Session, response: Response) -> None:
        """Sign the browser in by a cookie of the response."""
        value = self._signer.sign({"browser": session.browser})
        keep_cookie(response, COOKIE, value, path="/", max_age=MAX_AGE, secure=self._secure)
