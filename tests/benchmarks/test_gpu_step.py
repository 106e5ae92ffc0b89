"""The GPU benchmark runs on a machine that has installed only what the training step itself needs."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("gpu_step.py")
SETTINGS = (
    "--device cpu --shapes micro --checked-shape micro --checked-pairs 2 --pairs-per-step 2 --warm-up 1 --steps 1"
)
CASES = "--methods lora --profiles hh-rlhf --sampling 2 2 4"
MISSING = """
import importlib.metadata, sys
names = {"deepspeed", "prefect", "mlflow", "datasets", "pandera", "trl"}
for name in names: sys.modules[name] = None
# Nor is this package installed, by whatever way it is.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
found = importlib.metadata.version
def version(name):
    if name in names: raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
"""


def test_gpu_benchmark_without_deepspeed_and_the_services_measures_ours_and_says_what_it_skips(tmp_path: Path) -> None:
    """An import of any of them between a batch and an optimizer step would fail on a machine that lacks them."""
    (tmp_path / "sitecustomize.py").write_text(MISSING)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *SETTINGS.split(), *CASES.split(), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    (case,) = result["samples"]
    assert case["systems"]["ours"]["pairs_per_second"] > 0
    assert case["systems"]["TRL default"] == {
        "skipped": "not installed: import of datasets halted; None in sys.modules"
    }
    assert set(result["summary"]["machine"]["exact"]["bf16"]) >= {"attention, key", "gradient, many packs"}
    assert "gradient, TRL" not in result["summary"]["machine"]["exact"]["bf16"]
    assert result["packages"]["prefect"] is None
    assert result["packages"]["torch"]
