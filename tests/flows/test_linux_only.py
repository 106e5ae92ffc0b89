"""Elsewhere than on Linux the first command says so in one line, before an import fails."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = """
import sys
sys.platform = {platform!r}
for name in {missing!r}:
    sys.modules[name] = None  # an import of it then fails, as where it does not exist
sys.argv = ["ratchet", "doctor"]
from flows.cli import main
main()
"""


@pytest.mark.parametrize(("platform", "missing"), [("win32", ["fcntl", "resource", "pwd"]), ("darwin", [])])
def test_other_systems_get_one_line_with_the_remedy(platform: str, missing: list[str]) -> None:
    code = ELSEWHERE.format(platform=platform, missing=missing)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    (line,) = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert line.startswith(f"ratchet: Ratchet needs Linux, and this is {platform}: ")


def test_what_an_other_system_lacks_is_what_the_commands_import() -> None:
    """Else the test above would pass without the check."""
    code = "import sys; sys.modules['fcntl'] = None; import flows.commands.run"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "ModuleNotFoundError: import of fcntl halted" in ended.stderr


def test_package_says_that_it_needs_linux() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [name for name in project["classifiers"] if name.startswith("Operating System")] == [
        "Operating System :: POSIX :: Linux"
    ]
    assert "Ratchet needs Linux" in (ROOT / "README.md").read_text()
