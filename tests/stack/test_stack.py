"""The stack runs campaigns, keeps its doors locked, and loses nothing if one of its containers is killed.

`make stack-test` builds the images and runs these tests; the engine must be able to bind the loopback interface.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stack.containers import ROUND_SECONDS, SERVICES, START_SECONDS, Stack, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]
ROUNDS = 2


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> dict[str, Any]:
    """A campaign of two rounds that nothing disturbed."""
    run = stack.start("undisturbed", num_rounds=ROUNDS)
    assert stack.wait_until_final(run, seconds=ROUND_SECONDS)["type"] == "COMPLETED", stack.logs("worker")
    return stack.campaign("undisturbed")


def test_campaign_started_through_prefect_ends_and_is_recorded(undisturbed: dict[str, Any]) -> None:
    assert [record["round"] for record in undisturbed["rounds"]] == [1, 2]
    assert all(record["mlflow_run_id"] for record in undisturbed["rounds"])
    assert undisturbed["target"] is None


def test_champion_loads_from_mlflow_with_the_weights_of_the_campaign(
    stack: Stack, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from components.models.loading import tensors_digest

    assert undisturbed["champion"]["round"] > 0
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", (stack.secrets / "mlflow-password").read_text().strip())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow)
    path = mlflow.artifacts.download_artifacts("models:/undisturbed@champion", dst_path=str(tmp_path))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    assert model.num_parameters() > 100_000
    assert tokenizer("Hi")["input_ids"]
    assert tensors_digest(sorted(Path(path).glob("*.safetensors"))) == undisturbed["champion"]["digest"]


def test_pages_answer_nobody_without_their_key(stack: Stack) -> None:
    assert httpx.post(f"{stack.prefect}/api/flows/filter", json={}).status_code == 401
    assert httpx.get(f"{stack.prefect}/api/health").status_code == 200
    assert httpx.get(f"{stack.mlflow}/api/2.0/mlflow/experiments/search?max_results=1").status_code == 401
    assert httpx.get(f"{stack.labelling}/c/undisturbed/").status_code == 401
    foreign = {"Host": "attacker.example"}
    assert httpx.get(f"{stack.prefect}/api/health", headers=foreign).status_code == 403
    assert httpx.get(f"{stack.mlflow}/api/2.0/mlflow/experiments/search", headers=foreign).status_code == 403
    assert httpx.get(f"{stack.labelling}/", headers=foreign).status_code == 421


def test_containers_have_no_privileges_and_show_no_secret(stack: Stack) -> None:
    secrets = [path.read_text().strip() for path in stack.secrets.iterdir() if path.name != "s3-config"]
    for service in SERVICES:
        about = stack.inspect(service)
        assert not about["HostConfig"]["Privileged"]
        assert about["HostConfig"]["ReadonlyRootfs"]
        assert stack.execute(service, "id", "-u").strip() != "0"
        commands = stack.execute(service, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        found = [secret for secret in secrets if secret in json.dumps(about) or secret in commands]
        assert found == [], service


def test_image_has_no_compiler_and_no_package_cache(stack: Stack) -> None:
    compilers = stack.execute("worker", "sh", "-c", "command -v gcc cc g++ clang make || true")
    assert compilers == ""
    caches = "/root/.cache /home/ratchet/.cache /var/lib/apt/lists /tmp/pip-*"
    assert stack.execute("worker", "sh", "-c", f"find {caches} -type f 2> /dev/null || true") == ""


@pytest.mark.parametrize("service", ["mlflow", "prefect", "postgres", "worker"])
def test_container_killed_in_the_middle_of_a_round_loses_nothing(
    stack: Stack, undisturbed: dict[str, Any], service: str
) -> None:
    campaign = f"without-{service}"
    run = stack.start(campaign, num_rounds=ROUNDS)
    wait_until(lambda: stack.is_training(campaign), f"{campaign} to train", ROUND_SECONDS, stack.logs, "worker")
    stack.kill(service)
    ended = stack.finish(campaign, run, num_rounds=ROUNDS, seconds=ROUND_SECONDS)
    state = stack.campaign(campaign)
    print(f"{service} killed: {ended}")
    assert digests(state) == digests(undisturbed)
    stack.wait_until_healthy(seconds=START_SECONDS)
    if not all(record["mlflow_run_id"] for record in state["rounds"]):
        stack.finish(campaign, stack.start(campaign, num_rounds=1), num_rounds=1, seconds=ROUND_SECONDS)
        state = stack.campaign(campaign)
    assert all(record["mlflow_run_id"] for record in state["rounds"])


def digests(state: dict[str, Any]) -> list[str]:
    """Return the digests of the weights that the first rounds trained."""
    return [record["policy_digest"] for record in state["rounds"]][:ROUNDS]
