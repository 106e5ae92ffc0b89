"""Make the next fixture of this folder: a campaign of two rounds, as the installed version of `ratchet` publishes it.

    python tests/compatibility/make_campaign.py tests/compatibility/campaign-0.2.tar.xz

Run it once per version, at its release, with the Python of an environment that has that version. Then copy
test_published_by_0_1.py for the new file. A fixture is never made again: its value is that old code wrote it.

Three models, the tables of all stages and their plots must fit into 300 KB. So the built-in starter is trained in
miniature, with 8,000 parameters, and plots are saved at a low resolution; all else is what a user's campaign has. A
campaign copies a built-in start model into round 0 and names it by a relative path, which it does with no other start
model: such a campaign may be unpacked anywhere. Its weights come with it, because another processor may train others.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

MOST_BYTES = 300_000
LEFT_OUT = (".lock", "report.html")
"""The lock names this host; the report is written anew by every start."""
SETTINGS = """\
campaign: small
num_rounds: 2
policy: {dtype: float32, max_prompt_tokens: 64, max_response_tokens: 40}
prompts: {per_round: 64, num_held_out: 96}
generation: {samples_per_prompt: 4, batch_size: 64}
evaluation: {num_samples: 4}
validation: {max_quarantine_share: 0.95, min_pairs: 1}
training: {learning_rate: 2.0e-3, epochs: 2, pairs_per_step: 8, micro_batch_pairs: 8}
"""
RATCHET_IN_MINIATURE = """\
from matplotlib.figure import Figure

from components.builtin import starter
from flows.cli import main

starter.ARCHITECTURE.update(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
starter.STEPS, starter.LEARNING_RATE = 900, 1e-2
save_figure = Figure.savefig
Figure.savefig = lambda figure, *arguments, **options: save_figure(figure, *arguments, **options | {"dpi": 20})
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="the file to write")
    archive = parser.parse_args().archive.absolute()
    if archive.exists():
        parser.error(f"{archive} exists: a published fixture is never made again")
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        place = Path(folder)
        run_rounds(place)
        check_campaign(place / "runs" / "small", place)
        pack(place, archive)


def run_rounds(place: Path) -> None:
    """Run both rounds by the command line, with MLflow out of reach: the rounds wait to be recorded."""
    (place / "campaign.yaml").write_text(SETTINGS)
    environment = os.environ | {
        "RATCHET_RUNS": str(place / "runs"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "PREFECT_HOME": str(place / "prefect"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "CUDA_VISIBLE_DEVICES": "",  # a stage in a child process would train and draw at full size
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", RATCHET_IN_MINIATURE, "run", "campaign.yaml"]
    subprocess.run(command, cwd=place, env=environment, check=True)


def check_campaign(directory: Path, place: Path) -> None:
    """Check that both rounds were promoted, that none was recorded, and that no file names the folder it lies in."""
    state: dict[str, Any] = json.loads((directory / "campaign.json").read_text())
    assert [record["promoted"] for record in state["rounds"]] == [True, True], state
    assert [record["mlflow_run_id"] for record in state["rounds"]] == [None, None], state
    for path in directory.rglob("*"):
        if path.is_file() and path.name not in LEFT_OUT:
            assert str(place).encode() not in path.read_bytes(), path


def pack(place: Path, archive: Path) -> None:
    """Write campaign.yaml and the campaign's files into the archive, without the names of users."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(entry.name).name in LEFT_OUT:
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w:xz", preset=9) as packed:
        packed.add(place / "campaign.yaml", "campaign.yaml", filter=anonymous)
        packed.add(place / "runs" / "small", "runs/small", filter=anonymous)
    size = archive.stat().st_size
    print(f"{archive}: {size} bytes")
    assert size <= MOST_BYTES, "the fixture is too large: make the rounds smaller"


if __name__ == "__main__":
    main()
