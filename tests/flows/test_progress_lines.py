"""The lines of a running stage under `nohup`: real commands whose output is a pipe, and their log files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from components.config import CampaignConfig

STEPS = r"(\d+) of (\d+), [\d.e+]+ a second, about [^,]+ left, memory \d+\.\d GiB, loss \d+\.\d+"


def ratchet(*arguments: str, runs: Path) -> list[str]:
    """The lines on stdout of a command in a process of its own, with a line of progress every 0.05 s."""
    prefect = {"PREFECT_HOME": str(runs.parent / "prefect")}
    environment = {**os.environ, **prefect, "RATCHET_RUNS": str(runs), "RATCHET_PROGRESS_SECONDS": "0.05"}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def steps(lines: list[str], stage: str) -> list[tuple[int, int]]:
    """How far a training was in each of its lines."""
    found = (re.search(rf"{stage} +{STEPS}$", line) for line in lines)
    return [(int(match[1]), int(match[2])) for match in found if match is not None]


def test_reward_model_into_a_pipe_says_step_speed_time_left_and_memory(tmp_path: Path, starter_directory: Path) -> None:
    """A training of 47 minutes printed nothing."""
    rows = [{"prompt": f"order {n}", "chosen": "thank you " * 9, "rejected": f"no {n} " * 9} for n in range(300)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "settings.yaml").write_text("{dtype: float32, epochs: 1, pairs_per_step: 4, min_accuracy: 0}")
    lines = ratchet(
        *("reward-model", str(tmp_path / "pairs.jsonl"), "--base", str(starter_directory)),
        *("--out", str(tmp_path / "out"), "--config", str(tmp_path / "settings.yaml")),
        runs=tmp_path / "runs",
    )
    printed = steps(lines, "out  reward_model")
    assert printed, lines
    assert printed == sorted(printed)
    logged = (tmp_path / "out" / "reward_model.log").read_text().splitlines()
    assert steps(logged, "out  reward_model")
    assert [line.split(" ", 2)[2] for line in logged if "begins" in line] == ["INFO out  reward_model          begins"]


def test_run_into_a_pipe_says_it_of_each_stage_and_logs_it_beside_the_rounds(
    tmp_path: Path, make_config: Callable[..., CampaignConfig]
) -> None:
    config = make_config(
        prompts={"per_round": 64, "num_held_out": 48},
        training={"learning_rate": 3e-4, "epochs": 2, "pairs_per_step": 4, "micro_batch_pairs": 4},
    )
    (tmp_path / "small.yaml").write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    lines = ratchet("run", str(tmp_path / "small.yaml"), runs=tmp_path / "runs")
    # The libraries load meanwhile: the first line stands before the first stage.
    assert re.match(r"small +checks|small +between stages|round-000", lines[0]), lines
    assert steps(lines, "round-001  dpo_train"), lines
    log = (tmp_path / "runs" / "small" / "campaign.log").read_text().splitlines()
    assert steps(log, "round-001  dpo_train"), log
    begun = [line.split(" INFO ")[1].split()[:2] for line in log if line.endswith(" begins")]
    stages = ["generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote"]
    assert begun == [["round-000", "start"], *(["round-001", stage] for stage in stages)]


def test_interval_that_is_no_number_is_named_in_one_line(
    tmp_path: Path, make_config: Callable[..., CampaignConfig]
) -> None:
    (tmp_path / "small.yaml").write_text(json.dumps(make_config().model_dump(mode="json", exclude_unset=True)))
    environment = {**os.environ, "RATCHET_RUNS": str(tmp_path / "runs"), "RATCHET_PROGRESS_SECONDS": "often"}
    command = [sys.executable, "-m", "flows.cli", "run", str(tmp_path / "small.yaml")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        ["ratchet: RATCHET_PROGRESS_SECONDS = 'often' is not a positive number of seconds: set one such as 60"],
    )
    assert not (tmp_path / "runs").exists()
