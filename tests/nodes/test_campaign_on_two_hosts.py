"""A campaign on two hosts has the results of one host, also if the second host is lost at a random step."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from components.artifacts import read_json
from tests.nodes.clusters import CLUSTERS, Cluster, until
from tests.nodes.hosts import HOSTS, Host, two_hosts

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(1800)]

ROUNDS = 2
CUT_SECONDS = 30
SAME_BYTES = (
    "generate_responses/responses.parquet",
    "collect_preferences/preferences.parquet",
    "validate_data/train.parquet",
)
SECOND = HOSTS[1]


class Campaign:
    """A campaign of the command line, started on the first host."""

    def __init__(self, place: Path, model: Path, nodes: int, cluster: Cluster | None) -> None:
        self.place, self.cluster = place, cluster
        self.directory = place / "runs" / "hosts"
        place.mkdir()
        ranks = {"nodes": nodes, "num_processes": 2 // nodes}
        settings: dict[str, Any] = {
            "campaign": "hosts",
            "policy": {"model": str(model), "dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 40},
            "prompts": {"per_round": 48, "num_held_out": 64},
            "generation": {"batch_size": 64, **ranks},
            "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
            "training": {
                "learning_rate": 3e-4,
                "epochs": 12,
                "pairs_per_step": 4,
                "micro_batch_pairs": 4,
                "checkpoint_every": 3,
                "zero_stage": 2,
                **ranks,
            },
            "evaluation": {"nodes": nodes},
            "gate": {"max_unfinished_increase": 1.0},
        }
        if cluster is not None:
            settings["launcher"] = cluster.launcher
        (place / "campaign.yaml").write_text(yaml.safe_dump(settings))

    def start(self, *within: str) -> "subprocess.Popen[bytes]":
        """Start or continue the campaign, within another command if one is given."""
        environment = {
            **os.environ,
            **(self.cluster.environment if self.cluster else {}),
            "RATCHET_RUNS": str(self.place / "runs"),
            "PREFECT_HOME": str(self.place / "prefect"),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "flows.cli", "run", str(self.place / "campaign.yaml"), "--until", str(ROUNDS)]
        with (self.place / "log.txt").open("ab") as log:
            return subprocess.Popen(HOSTS[0].command(*within, *command), env=environment, stdout=log, stderr=log)

    def end(self, running: "subprocess.Popen[bytes]") -> None:
        assert running.wait(timeout=900) == 0, self.log()

    def log(self) -> str:
        return (self.place / "log.txt").read_text()[-3000:]

    def losses(self) -> int:
        """Return how many lost nodes the campaign's log names."""
        path = self.directory / "campaign.log"
        return path.read_text().count(f"dpo_train failed: lost node {SECOND.name}") if path.exists() else 0

    def steps(self, round: int) -> int:
        """Return how many steps the round's training has behind it, by its newest checkpoint."""
        names = [path.name for path in (self.directory / f"round-{round:03d}" / "checkpoints").glob("*/step-*")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)


def assert_same(campaign: Campaign, whole: Campaign) -> None:
    """Check that both campaigns have the same responses and pairs, and losses and weights to 1e-5."""
    for round in range(1, ROUNDS + 1):
        own, other = (each.directory / f"round-{round:03d}" for each in (campaign, whole))
        for name in SAME_BYTES:
            assert (own / name).read_bytes() == (other / name).read_bytes(), f"{round} {name}"
        weights, expected = (load_file(each / "dpo_train" / "model" / "model.safetensors") for each in (own, other))
        assert weights.keys() == expected.keys()
        for name in weights:
            torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-5)
        assert read_json(own / "promote" / "decision.json") == read_json(other / "promote" / "decision.json")
    assert read_json(campaign.directory / "campaign.json")["target"] is None


@pytest.fixture(scope="module", params=sorted(CLUSTERS))
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    place = Path(f"/tmp/ratchet-{request.param}-{os.getpid()}")  # short: Ray's sockets lie in it
    place.mkdir(mode=0o755)
    with two_hosts() as hosts:
        cluster = CLUSTERS[request.param](place, hosts)
        yield cluster
    for daemon in cluster.daemons:
        daemon.wait(10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, starter_directory: Path) -> Campaign:
    """The campaign on one host, with two ranks."""
    return Campaign(tmp_path_factory.mktemp("hosts") / "whole", starter_directory, 1, None)


def finished(whole: Campaign) -> Campaign:
    if not (whole.directory / "campaign.json").exists():
        whole.end(whole.start())
    return whole


def stage_processes(host: Host) -> list[str]:
    """Return the command lines of a stage's processes on a host."""
    lines = []
    for process in host.processes():
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.startswith("components.runtime.") or word == "torch.distributed.run" for word in words):
            lines.append(" ".join(words))
    return lines


def test_two_hosts_have_the_results_of_one(
    cluster: Cluster, whole: Campaign, tmp_path: Path, starter_directory: Path
) -> None:
    campaign = Campaign(tmp_path / "two", starter_directory, 2, cluster)
    campaign.end(campaign.start())
    assert_same(campaign, finished(whole))
    log = (campaign.directory / "campaign.log").read_text()
    assert "(1 of 2)" in log
    assert "(2 of 2)" in log
    until(lambda: not stage_processes(SECOND), "the second host's ranks are gone")


@pytest.mark.parametrize("cluster", ["slurm"], indirect=True)
def test_stages_are_steps_of_the_allocation_that_the_campaign_runs_in(
    cluster: Cluster, whole: Campaign, tmp_path: Path, starter_directory: Path
) -> None:
    campaign = Campaign(tmp_path / "within", starter_directory, 2, cluster)
    campaign.end(campaign.start("salloc", "--nodes=2", "--ntasks=2"))
    assert_same(campaign, finished(whole))
    assert "queued and waiting" not in (campaign.directory / "campaign.log").read_text()


def lose_second_host(campaign: Campaign, running: "subprocess.Popen[bytes]", round: int) -> None:
    """Switch the second host off at a random moment behind the next checkpoint, and on again when its loss is told."""
    assert campaign.cluster is not None
    losses, steps = campaign.losses(), campaign.steps(round)
    until(lambda: campaign.steps(round) > steps or running.poll() is not None, "a checkpoint", 400)
    assert running.poll() is None, campaign.log()
    time.sleep(random.Random(losses).uniform(0.0, 2.0))
    print(f"the second host is lost behind step {campaign.steps(round)} of round {round}", flush=True)
    SECOND.power_off()
    try:
        until(lambda: campaign.losses() > losses or running.poll() is not None, "the loss is told", 200)
    finally:
        SECOND.connect()
        campaign.cluster.start(SECOND)


def test_lost_host_is_named_and_the_campaign_ends_with_the_same_results(
    cluster: Cluster, whole: Campaign, tmp_path: Path, starter_directory: Path
) -> None:
    campaign = Campaign(tmp_path / "lost", starter_directory, 2, cluster)
    running = campaign.start()
    for round in (1, 1, 2):
        lose_second_host(campaign, running, round)
    campaign.end(running)
    assert_same(campaign, finished(whole))
    until(lambda: not stage_processes(SECOND), "the second host's ranks are gone")


def test_cut_cable_of_half_a_minute_changes_nothing(
    cluster: Cluster, whole: Campaign, tmp_path: Path, starter_directory: Path
) -> None:
    campaign = Campaign(tmp_path / "cut", starter_directory, 2, cluster)
    running = campaign.start()
    until(lambda: campaign.steps(1) >= 3 or running.poll() is not None, "a checkpoint", 300)
    SECOND.disconnect()
    time.sleep(CUT_SECONDS)
    SECOND.connect()
    cluster.tend(SECOND)
    campaign.end(running)
    assert_same(campaign, finished(whole))
    until(lambda: not stage_processes(SECOND), "the second host's ranks are gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_command_leaves_no_rank_on_any_host(
    number: signal.Signals, cluster: Cluster, tmp_path: Path, starter_directory: Path
) -> None:
    campaign = Campaign(tmp_path / "ended", starter_directory, 2, cluster)
    running = campaign.start()
    until(lambda: campaign.steps(1) >= 3 or running.poll() is not None, "a checkpoint", 300)
    assert stage_processes(SECOND)
    running.send_signal(number)
    running.wait(60)
    for host in HOSTS:
        until(lambda host=host: not stage_processes(host), f"the ranks of {host.name} are gone", 30)
