"""Ranks that share the weights make equally many forwards, whatever their data.

Under ZeRO 3 every forward gathers the weights from all ranks: a rank with one forward less lets the others wait for
ever, unless the model is so small that weights stay gathered.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.artifacts import file_digest, read_json, read_table, write_table
from components.records import Artifact, TrainRequest

LIMIT_SECONDS = 200
"""It takes 15 on a quiet machine."""


def test_sharded_ranks_with_other_numbers_of_forwards_do_not_wait_for_each_other(
    make_request: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    request = make_request(
        loss="kto", reference_sync_steps=1, zero_stage=3, micro_batch_tokens=110, micro_batch_pairs=0, pairs_per_step=9
    )
    table = read_table(request.train).head(9)
    # One prompt's mismatched answer is longer than its own two.
    table["rejected_ids"] = [ids[:2] for ids in table["rejected_ids"]]
    table["chosen_ids"] = [list(ids) * (4 if row == 4 else 1) for row, ids in enumerate(table["chosen_ids"])]
    write_table(tmp_path / "train.parquet", table)
    train = Artifact(path=tmp_path / "train.parquet", digest=file_digest(tmp_path / "train.parquet"))
    (tmp_path / "request.json").write_text(request.model_copy(update={"train": train}).model_dump_json())
    out = tmp_path / "out"
    out.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).parent / "sharded_rank.py")
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [*torchrun, script, str(tmp_path / "request.json"), str(out)], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            process.wait(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail("the ranks wait for each other")
        finally:
            # torchrun ends its ranks at SIGTERM; each has a session of its own.
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
                process.wait(timeout=60)
    assert process.returncode == 0, (tmp_path / "output").read_text()[-3000:]
    assert read_json(out / "train.json")["num_processes"] == 2
    first, second = (json.loads((out / f"forwards-{rank}.json").read_text()) for rank in (0, 1))
    # A step of three micro-batches, whose KL is measured first; then the reference follows.
    assert first[:3] != second[:3], "the KL was measured without one rank waiting for the other"
    assert first[3:5] != second[3:5], "the reference followed without one rank waiting for the other"
