"""`ratchet label` as a user types it."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import Result
from typer.testing import CliRunner

from components.labelling.desk import Desk
from components.labelling.task import read_votes, write_task
from components.labelling.voting import Ballot
from flows.cli import app
from flows.servers import labelling_app
from tests.labelling.tasks import make_task


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path))
    for name in ("RATCHET_LABEL_PORT", "RATCHET_LABEL_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "demo").mkdir()


def label(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["label", *arguments])


def vote(campaign: Path, choice: str = "left") -> None:
    desk = Desk(campaign)
    assigned = desk.next("ann").next
    assert not isinstance(assigned, str)
    ballot = Ballot(str(uuid4()), assigned.item.item_id, choice, seconds=12.0, flag="odd")  # type: ignore[arg-type]
    assert desk.vote("ann", assigned.plan.name, ballot) == "kept"
    desk.close()


def test_invite_prints_a_link_that_opens_and_revoke_ends_it(tmp_path: Path) -> None:
    result = label("demo", "--invite", "ann", "--port", "4444", "--days", "2")
    assert result.exit_code == 0, result.output
    link = re.match(r"http://127\.0\.0\.1:4444/join/demo\.(\S+)\n", result.output)
    assert link is not None
    assert "for ann alone, in one browser, within 2 days" in result.output
    desk = Desk(tmp_path / "demo")
    assert desk.annotator_of(desk.accept(link[1], "browser")) == "ann"
    assert label("demo", "--revoke", "ann").output == "ann: 1 link and every session ended\n"
    assert desk.accept(link[1], "browser") == "revoked"
    desk.close()


def test_invite_names_the_public_address() -> None:
    result = label("demo", "--invite", "ann", "--url", "https://labels.example/")
    assert result.output.startswith("https://labels.example/join/demo.")


def test_status_prints_tasks_and_annotators(tmp_path: Path) -> None:
    assert label("demo", "--status").output == "demo has asked people nothing yet\n"
    write_task(tmp_path / "demo", make_task(num_items=2, quota=2))
    vote(tmp_path / "demo")
    lines = [line.split() for line in label("demo", "--status").output.splitlines()]
    assert ["round-001-1a2b3c4d5e6f", "1", "2", "1", "1", "open"] in lines
    assert ["ann", "1", "0", "1", "12.0", "none", "seen"] in lines


def test_close_publishes_the_votes(tmp_path: Path) -> None:
    directory = write_task(tmp_path / "demo", make_task(num_items=2))
    vote(tmp_path / "demo", "tie")
    assert label("demo", "--close").output == "closed round-001-1a2b3c4d5e6f\n"
    votes = read_votes(directory)
    assert votes is not None
    assert [vote.choice for vote in votes.votes] == ["tie"]
    assert label("demo", "--close").output == "no task is open\n"


def test_export_writes_pairs_and_import_counts_them(tmp_path: Path) -> None:
    write_task(tmp_path / "demo", make_task(num_items=2, votes_per_item=2))
    vote(tmp_path / "demo")
    out = tmp_path / "pairs.jsonl"
    result = label("demo", "--export", str(out), "--to", "trl")
    assert result.exit_code == 0, result.output
    assert "1 written as 1 rows" in result.output
    assert label("demo", "--import", str(out), "--as", "studio").output == "votes    1 taken as those of studio\n"
    assert label("demo", "--import", str(out), "--as", "studio").output.splitlines()[1:] == ["known    1 stand already"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("absent",), "campaign absent does not exist"),
        (("demo", "--revoke", "bob"), "nobody named 'bob' was invited: choose from nobody yet"),
        (("demo", "--invite", "a b"), "annotator 'a b' must have 1 to 64 letters"),
        (
            ("demo", "--invite", "ann", "--url", "labels.example"),
            "labels.example is not the address of a server",
        ),
        (("demo", "--host", "0.0.0.0"), "--host = 0.0.0.0 lets other machines in: name the address"),
        (("demo", "--status", "--close"), "exclude each other: give one of them"),
        (("demo", "--export", "x.jsonl"), "demo has no votes yet"),
    ],
)
def test_wrong_input_is_named_in_one_line(arguments: tuple[str, ...], line: str) -> None:
    result = label(*arguments)
    assert result.exit_code == 2
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_server_answers_for_its_public_host_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    monkeypatch.setenv("RATCHET_LABEL_URL", "https://labels.example")
    application = labelling_app.create_app()
    for host, status in (("labels.example", 200), ("127.0.0.1:4300", 200), ("evil.example", 421)):
        client = TestClient(application, base_url=f"http://{host}")
        assert client.get("/healthz").status_code == status
    assert "--proxy-headers" in labelling_app.labelling_command(4300)
    monkeypatch.delenv("RATCHET_LABEL_URL")
    assert "--no-proxy-headers" in labelling_app.labelling_command(4300)
