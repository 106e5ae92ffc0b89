from pathlib import Path
from typing import Any

import pytest

from components.labelling.desk import Desk
from components.labelling.invitations import Invitation, invite, revoke
from components.labelling.task import write_task
from tests.labelling.tasks import make_task
from tests.labelling.test_assignment import next_item


def test_link_opens_a_session_that_names_its_annotator(desk: Desk, clock: Any) -> None:
    token = invite(desk.database, "ann", days=7, now=clock.now)
    cookie = desk.accept(token, "browser")
    assert desk.annotator_of(cookie) == "ann"


def test_link_expires_and_its_session_goes_on(desk: Desk, clock: Any) -> None:
    token = invite(desk.database, "ann", days=7, now=clock.now)
    clock.tick(7 * 24 * 3600 - 1)
    cookie = desk.accept(token, "browser")
    clock.tick(2)
    assert desk.look_up(token, "browser") == "expired"
    assert desk.accept(token, "browser") == "expired"
    assert desk.annotator_of(cookie) == "ann"


def test_looking_at_a_link_does_not_use_it_up(desk: Desk, clock: Any) -> None:
    token = invite(desk.database, "ann", days=7, now=clock.now)
    for browser in ("preview", None, "reader"):
        assert isinstance(desk.look_up(token, browser), Invitation)


def test_link_opens_again_in_its_own_browser_alone(desk: Desk, clock: Any) -> None:
    token = invite(desk.database, "ann", days=7, now=clock.now)
    desk.accept(token, "hers")
    assert desk.annotator_of(desk.accept(token, "hers")) == "ann"
    assert desk.accept(token, "thief") == "used"
    assert desk.look_up(token, None) == "used"


def test_revoked_annotator_has_no_link_session_or_lease(desk: Desk, campaign: Path, clock: Any) -> None:
    write_task(campaign, make_task(num_items=1))
    used, unused = (invite(desk.database, "ann", days=7, now=clock.now) for _ in range(2))
    cookie = desk.accept(used, "browser")
    next_item(desk, "ann")
    assert revoke(desk.database, "ann", now=clock.now) == 2
    assert desk.accept(unused, "browser") == "revoked"
    assert desk.annotator_of(cookie) is None
    next_item(desk, "bob")
    fresh = invite(desk.database, "ann", days=7, now=clock.now)
    assert desk.annotator_of(desk.accept(fresh, "browser")) == "ann"
    assert desk.annotator_of(cookie) is None


def test_revoking_somebody_unknown_names_those_who_are_known(desk: Desk, clock: Any) -> None:
    invite(desk.database, "ann", days=7, now=clock.now)
    with pytest.raises(ValueError, match="nobody named 'bob' was invited: choose from ann"):
        revoke(desk.database, "bob", now=clock.now)


@pytest.mark.parametrize("name", ["", " ann", "a\nb", "<b>", "x" * 65, "../x"])
def test_name_with_odd_characters_is_refused(name: str, desk: Desk, clock: Any) -> None:
    with pytest.raises(ValueError, match="must have 1 to 64 letters"):
        invite(desk.database, name, days=7, now=clock.now)


def test_token_is_nowhere_on_the_disk(desk: Desk, campaign: Path, clock: Any) -> None:
    token = invite(desk.database, "ann", days=7, now=clock.now)
    desk.accept(token, "browser-name")
    content = b"".join(path.read_bytes() for path in campaign.rglob("*") if path.is_file())
    assert b"ann" in content
    assert token.encode() not in content
    assert b"browser-name" not in content


def test_session_of_another_campaign_or_a_forged_one_is_none(desk: Desk, tmp_path: Path, clock: Any) -> None:
    other = Desk(tmp_path / "other", clock=clock)
    try:
        cookie = other.accept(invite(other.database, "ann", days=7, now=clock.now), "browser")
        assert other.annotator_of(cookie) == "ann"
        assert desk.annotator_of(cookie) is None
    finally:
        other.close()
    assert desk.annotator_of(None) is None
    assert desk.annotator_of(desk.signer.sign({"annotator": "ann"})) is None
    assert desk.annotator_of(desk.signer.sign({"annotator": "ann", "link": "0" * 64})) is None
