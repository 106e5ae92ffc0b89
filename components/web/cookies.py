"""Signed cookies, and tokens against requests that another site makes a browser send (CSRF). Knows no page."""

import secrets
from collections.abc import Mapping

from itsdangerous import BadData, Signer, URLSafeTimedSerializer
from starlette.responses import Response

BROWSER = "ratchet_browser"
"""Cookie with a random name of the browser, to which the CSRF tokens of its pages are bound."""


class CookieSigner:
    """Signs what browsers keep for us, so that they cannot change it, by a key that only the server has."""

    def __init__(self, key: str) -> None:
        """Derive the keys of cookies and of CSRF tokens.

        Args:
            key: Secret, see `components.runtime.secret_file`.
        """
        self._cookies = URLSafeTimedSerializer(key, salt="ratchet-cookie")
        self._csrf = Signer(key, salt="ratchet-csrf")

    def sign(self, values: Mapping[str, str]) -> str:
        """Return the value of a cookie that holds `values`, which its owner can read but not change."""
        return str(self._cookies.dumps(dict(values)))

    def read(self, cookie: str | None, *, max_age: int) -> dict[str, str] | None:
        """Return the values of a cookie; None without one, or if it is not ours or older than `max_age` seconds."""
        try:
            return dict(self._cookies.loads(cookie or "", max_age=max_age))
        except BadData:
            return None

    def csrf_token(self, browser: str) -> str:
        """Return the token that pages of this browser send with each POST, as a header or a hidden field."""
        return self._csrf.sign(browser.encode()).decode()

    def is_csrf_token(self, token: str | None, browser: str | None) -> bool:
        """Return whether a token is that of this browser's pages."""
        try:
            return bool(browser) and self._csrf.unsign((token or "").encode()) == str(browser).encode()
        except BadData:
            return False


def new_browser() -> str:
    """Return a random name for a browser that has none yet."""
    return secrets.token_urlsafe(24)


def keep_cookie(response: Response, name: str, value: str, *, path: str, max_age: int, secure: bool) -> None:
    """Set a cookie that no script can read.

    It is Lax, not Strict: a reader who comes back by a link in a mail is otherwise signed out for that first page. No
    other site can make the browser send it with a POST.

    Args:
        response: The response that carries it.
        name: Its name.
        value: Its value.
        path: Path of the addresses that it is sent to.
        max_age: Seconds for which the browser keeps it.
        secure: Whether it is sent over HTTPS only; False is for pages on the loopback interface.
    """
    response.set_cookie(name, value, path=path, max_age=max_age, secure=secure, httponly=True, samesite="lax")
