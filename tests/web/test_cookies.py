import pytest
from starlette.responses import Response

from components.web.cookies import CookieSigner, keep_cookie, new_browser


def test_cookie_is_read_by_its_own_key_alone() -> None:
    cookie = CookieSigner("one").sign({"annotator": "ann"})
    assert CookieSigner("one").read(cookie, max_age=60) == {"annotator": "ann"}
    assert CookieSigner("two").read(cookie, max_age=60) is None


@pytest.mark.parametrize("cookie", [None, "", "x", "eyJhIjoxfQ.x.y"])
def test_cookie_that_is_not_ours_is_none(cookie: str | None) -> None:
    assert CookieSigner("one").read(cookie, max_age=60) is None


def test_cookie_that_is_too_old_is_none() -> None:
    assert CookieSigner("one").read(CookieSigner("one").sign({}), max_age=-1) is None


def test_csrf_token_fits_its_own_browser_alone() -> None:
    signer, browser = CookieSigner("one"), new_browser()
    token = signer.csrf_token(browser)
    assert signer.is_csrf_token(token, browser)
    assert not signer.is_csrf_token(token, new_browser())
    assert not signer.is_csrf_token(browser, browser)
    assert not signer.is_csrf_token(None, browser)
    assert not signer.is_csrf_token(token, None)
    assert not CookieSigner("two").is_csrf_token(token, browser)


def test_csrf_token_is_no_cookie() -> None:
    signer = CookieSigner("one")
    assert not signer.is_csrf_token(signer.sign({"a": "b"}), "a")


@pytest.mark.parametrize("secure", [True, False])
def test_kept_cookie_is_hidden_from_scripts(secure: bool) -> None:
    response = Response()
    keep_cookie(response, "name", "value", path="/c/demo/", max_age=60, secure=secure)
    cookie = response.headers["set-cookie"]
    assert {"HttpOnly", "Max-Age=60", "Path=/c/demo/", "SameSite=lax"} <= set(cookie.split("; "))
    assert ("Secure" in cookie) == secure
