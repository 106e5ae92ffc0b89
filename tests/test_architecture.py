"""The rules of the house, held by import-linter (`make imports`) and, where only a fresh process can tell, here."""

import lzma
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "deepspeed", "mlflow", "pandera", "datasets", "peft")
LIGHT_MODULES = [
    "flows.cli",
    "flows.iterative_dpo",
    "flows.dpo_round",
    "tasks.dpo_train",
    "tasks.record_round",
    "components.config",
    "components.records",
    "components.artifacts",
    "components.campaign.state",
    "components.history.cleanup",
    "components.history.compare",
    "components.history.lineage",
    "components.history.rollback",
    "components.runtime.launch",
    "components.start.preflight",
]
OWNERS = {
    "mlflow": r"components/tracking/",
    "deepspeed": r"components/dpo/engine\.py",
    "pandera": r"components/validation/",
    "lm_eval": r"components/regression/harness",
    "prefect": r"(flows|tasks)/",
}


def test_imports_of_flows_tasks_and_the_ground_load_no_heavy_library() -> None:
    code = f"import sys, {', '.join(LIGHT_MODULES)}; print([name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("library", OWNERS)
def test_imports_of_a_library_stay_with_its_owner(library: str) -> None:
    pattern = re.compile(rf"^\s*(import|from) {library}\b", re.MULTILINE)
    for folder in ("flows", "tasks", "components"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            assert re.match(OWNERS[library], name) or not pattern.search(path.read_text()), f"{name} imports {library}"


def test_files_that_git_knows_name_no_registry_and_no_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split("\0")
    hosts = re.compile(r"pypi\.org|pythonhosted|npmjs\.org|deb\.debian\.org|--index-url|--extra-index-url")
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in {".png", ".ico"} or path == Path(__file__) or not path.exists():
            continue
        content = lzma.decompress(path.read_bytes()).decode("latin-1") if path.suffix == ".xz" else path.read_text()
        assert not hosts.search(content), name
        assert path.stat().st_size < 2**20, name
