import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from flows.cli import app
from tests.docs.pages import (
    ROOT,
    blocks,
    broken_commands,
    broken_configurations,
    broken_links,
    pages,
    ratchet_commands,
    unknown_languages,
)

PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)


def written(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@PAGES
def test_links_of_every_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@PAGES
def test_yaml_blocks_of_every_page_load_as_configurations(page: Path, tmp_path: Path) -> None:
    assert broken_configurations(page, tmp_path) == []


@PAGES
def test_commands_of_every_page_parse(page: Path) -> None:
    assert broken_commands(page) == []


@PAGES
def test_code_blocks_of_every_page_have_a_language_that_is_checked(page: Path) -> None:
    assert unknown_languages(page) == []


@PAGES
def test_python_blocks_of_every_page_compile(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")


def test_pages_hold_what_the_checks_look_at() -> None:
    """Catches a reader that finds nothing and so never fails."""
    found = [block.language for page in pages() for block in blocks(page)]
    assert found.count("yaml") >= 6
    assert found.count("sh") >= 10
    commands = {name for page in pages() for name in ratchet_commands(page)}
    assert {"run", "status", "serve", "reward-model", "collect"} <= commands


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](missing.md)", "missing.md does not exist"),
        ("![a](missing.png)", "missing.png does not exist"),
        ('<img src="missing.png" width="9">', "missing.png does not exist"),
        ("# There\n\n[a](#here)", "#here has no such heading"),
        ("[a](other.md#here)", "other.md#here has no such heading"),
        ("```text\n# here\n```\n[a](#here)", "#here has no such heading"),
        ("[![a](missing.png)](page.md)", "missing.png does not exist"),
    ],
)
def test_links_that_are_broken_are_found(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "other.md").write_text("# There\n")
    (found,) = broken_links(written(tmp_path, text))
    assert found.endswith(fault)


def test_links_that_are_whole_are_not_found(tmp_path: Path) -> None:
    headings = "# One `two`, three\n## A\n## A\n"
    text = f"{headings}[a](#one-two-three) [b](#a-1) [c](page.md#a) [d](https://example.com/x.md) `[e](missing.md)`\n"
    assert broken_links(written(tmp_path, text)) == []


@pytest.mark.parametrize(
    "text",
    ["judge: {kind: nobody}", "traning: {beta: 0.1}", "campaign: [", "- a", "campaign: a b", "training: {epochs: 0}"],
)
def test_configurations_that_do_not_load_are_found(tmp_path: Path, text: str) -> None:
    assert len(broken_configurations(written(tmp_path, f"```yaml\n{text}\n```\n"), tmp_path)) == 1


@pytest.mark.parametrize("text", ["campaign: other\ntraining: {beta: 0.2}", "training: {beta: 0.2}  # sparse"])
def test_configurations_that_load_are_not_found(tmp_path: Path, text: str) -> None:
    assert broken_configurations(written(tmp_path, f"```yaml\n{text}\n```\n"), tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        "ratchet",
        "ratchet rnu conf/demo.yaml",
        "ratchet run",
        "ratchet run conf/demo.yaml --round 1",
        "ratchet run conf/demo.yaml --rounds none",
        "ratchet status demo other",
        ".venv/bin/ratchet rollback demo",
        "RATCHET_RUNS=/data ratchet serve demo --engine other",
        "make up && ratchet deploy --nowhere  # why",
        "ratchet reward-model pairs.jsonl \\\n    --base ./model",
        "make everything",
    ],
)
def test_commands_that_would_be_refused_are_found(tmp_path: Path, line: str) -> None:
    assert len(broken_commands(written(tmp_path, f"```sh\n{line}\n```\n"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "ratchet run conf/demo.yaml --rounds 1   # one more",
        "RATCHET_RUNS=/data .venv/bin/ratchet status demo --all",
        "ratchet reward-model pairs.jsonl \\\n    --base ./model --out rewards",
        "cat > file <<'END'\nratchet nothing\nEND",
        'echo "ratchet nothing" && make test ARGS="tests/dpo -k resumed"',
    ],
)
def test_commands_that_parse_are_not_found(tmp_path: Path, line: str) -> None:
    assert broken_commands(written(tmp_path, f"```sh\n{line}\n```\n")) == []


def test_code_block_of_an_unknown_language_is_found(tmp_path: Path) -> None:
    assert len(unknown_languages(written(tmp_path, "```bash\nratchet rnu\n```\n"))) == 1


def test_code_block_that_is_never_closed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never closed"):
        blocks(written(tmp_path, "```sh\nratchet run\n"))


def test_readme_stays_short() -> None:
    text = (ROOT / "README.md").read_bytes()
    assert len(text.splitlines()) <= 200
    assert len(text) <= 12 * 1024


def test_readme_lists_every_command() -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `ratchet ")]
    listed = [name for row in rows for name in re.findall(r"`ratchet ([a-z-]+)", row.split(" | ")[0])]
    assert sorted(listed) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_readme_names_every_page_of_docs() -> None:
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in text] == []


def test_changelog_is_cut_as_contributing_says() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d{2}-\d{2}$", text, flags=re.MULTILINE)
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE)[0] == "Unreleased"
    assert released[0] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    allowed = {"Added", "Changed", "Fixed", "Performance", "Re-runs stages"}
    assert set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE)) <= allowed
    bullets = re.findall(r"^- .*\n(?: +\S.*\n)*", text, flags=re.MULTILINE)
    assert [bullet for bullet in bullets if bullet.count("\n") > 2 or max(map(len, bullet.splitlines())) > 120] == []


def test_contributing_orders_the_rooms_as_the_contract_does() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == ["components"]]
    rows = re.findall(r"^\| \d+ \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert [row.replace("`", "").split(", ") for row in rows] == [layer.split(" | ") for layer in layers]


def test_readme_maps_every_room() -> None:
    (house,) = [block.text for block in blocks(ROOT / "README.md") if "\ncomponents/ " in block.text]
    rooms = [f"{path.parent.name}/" for path in (ROOT / "components").glob("*/__init__.py")]
    assert len(rooms) > 20
    assert [room for room in rooms if f" {room}" not in house.replace("\n", " ")] == []


def test_makefile_has_no_target_twice_and_each_is_phony() -> None:
    told = subprocess.run(["make", "--dry-run", "audit"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "warning" not in told.stderr
    lines = (ROOT / "Makefile").read_text().replace("\\\n", "").splitlines()
    targets = {name for line in lines if (name := line.partition(":")[0]).replace("-", "").isalnum() and ":" in line}
    phony = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    assert targets == set(phony)
