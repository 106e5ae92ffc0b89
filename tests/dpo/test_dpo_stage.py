"""Runs that must be equal are equal; the reference is the right one; a killed run resumes.

What is broken is refused.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import digest, file_digest, read_json, read_table, write_table
from components.config import ConstraintsConfig, LoraConfig
from components.dpo import train as training_loop
from components.dpo.stage import run
from components.models.loading import trained_ref
from components.records import Artifact, StageFailed, TrainRequest
from components.runtime.launch import Placement, run_stage

Make = Callable[..., TrainRequest]
SAME_LOSS = 3e-5
"""Adam divides small gradients by their own size, so that the last bits of a sum over ranks or shards show after a few
steps."""
Interrupted = Callable[[TrainRequest], Path]


def trained(request: TrainRequest, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True)
    run(request, out)
    return read_json(out / "train.json")


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def metrics(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(make_request: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, ZeRO 0, one micro-batch a step, two epochs: what the other runs are compared with."""
    out = tmp_path_factory.mktemp("plain") / "run"
    trained(make_request(epochs=2), out)
    return out


def test_training_policy_is_reference_starts_at_ln_2_and_learns(plain: Path) -> None:
    summary, steps = read_json(plain / "train.json"), metrics(plain)
    assert summary["ln2_checked"]
    assert summary["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert len(steps) == summary["num_steps"] == 6
    assert steps[-1]["loss"] < 0.66
    assert steps[-1]["rewards/margins"] > 0.05
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert all(step["grad_norm"] > 0 for step in steps)
    assert steps[-1]["rewards/margins"] == pytest.approx(
        steps[-1]["rewards/chosen"] - steps[-1]["rewards/rejected"], abs=1e-5
    )
    assert summary["eval"]["num_pairs"] == 6
    assert summary["scoring"] == {"packed": True, "reason": None}


def test_training_that_needs_all_logits_says_that_it_is_padded(make_request: Make, tmp_path: Path) -> None:
    summary = trained(make_request(weighting="wpo"), tmp_path / "run")
    assert summary["scoring"] == {"packed": False, "reason": "collision probabilities (weighting: wpo) need all logits"}


def test_training_no_evaluation_pairs_same_losses(plain: Path, make_request: Make, tmp_path: Path) -> None:
    request = make_request(epochs=2)
    write_table(tmp_path / "eval.parquet", read_table(request.eval).head(0))
    nothing = Artifact(path=tmp_path / "eval.parquet", digest=file_digest(tmp_path / "eval.parquet"))
    summary = trained(request.model_copy(update={"eval": nothing}), tmp_path / "run")
    assert summary["eval"] is None
    # The reference scores pairs of both tables in the same rows, and the last bit of a product may depend on how many
    # rows it has.
    assert losses(tmp_path / "run") == pytest.approx(losses(plain), abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"micro_batch_pairs": 1}, {"micro_batch_pairs": 3}, {"zero_stage": 1}, {"zero_stage": 2}, {"zero_stage": 3}],
)
def test_training_other_micro_batch_or_zero_stage_same_losses(
    changes: dict[str, int], plain: Path, make_request: Make, tmp_path: Path
) -> None:
    trained(make_request(epochs=2, **changes), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(plain), abs=SAME_LOSS)
    norms = [[step["grad_norm"] for step in metrics(directory)] for directory in (tmp_path / "run", plain)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_training_two_processes_same_losses_as_one(
    zero_stage: int, plain: Path, make_request: Make, tmp_path: Path
) -> None:
    request = make_request(epochs=2, zero_stage=zero_stage, num_processes=2, micro_batch_pairs=2)
    run_stage("dpo_train", request, tmp_path, where=Placement(num_processes=2))
    summary = read_json(tmp_path / "dpo_train" / "train.json")
    assert summary["num_processes"] == 2
    assert losses(tmp_path / "dpo_train") == pytest.approx(losses(plain), abs=SAME_LOSS)
    assert summary["eval"]["loss"] == pytest.approx(read_json(plain / "train.json")["eval"]["loss"], abs=1e-4)
    samples = (tmp_path / "dpo_train" / "system.jsonl").read_text().splitlines()
    assert {json.loads(line)["rank"] for line in samples} == {0, 1}, "every rank samples, the first only too"


# What a run shares between its ranks or keeps between its steps: KTO's KL, BCO's reward shift, AOT's quantiles, the
# multipliers, the tags' shares.
SHARED = {
    "loss": "bco_pair",
    "added_losses": {"kto": 0.5, "aot": 2.0},
    "constraints": ConstraintsConfig(
        banned_phrases=("sorry",),
        max_tokens=20,
        step=3.0,
        function=f"{Path(__file__).with_name('users_rule.py')}:apologises",
    ),
    "tag_weights": {"style": 2.0},
    "tag_shares": {"style": 0.5},
}


def test_training_what_ranks_share_is_the_same_in_two_processes(make_request: Make, tmp_path: Path) -> None:
    trained(make_request(epochs=2, **SHARED), tmp_path / "one")
    request = make_request(epochs=2, num_processes=2, micro_batch_pairs=2, **SHARED)
    run_stage("dpo_train", request, tmp_path / "two", where=Placement(num_processes=2))
    alone, together = metrics(tmp_path / "one"), metrics(tmp_path / "two" / "dpo_train")
    for name in (
        "loss",
        "grad_norm",
        "kl/mismatched",
        "reward_shift",
        "constraints/max_tokens/multiplier",
        "constraints/banned_phrases/violation",
        "constraints/function/violation",
    ):
        assert [step[name] for step in together] == pytest.approx([step[name] for step in alone], rel=1e-4, abs=2e-5), (
            name
        )
    assert alone[-1]["constraints/max_tokens/multiplier"] > alone[0]["constraints/max_tokens/multiplier"] > 1.0
    assert all(0 < step["constraints/function/violation"] < 1 for step in alone)
    assert alone[-1]["reward_count"] == 2 * sum([8, 8, 6] * 2)


def test_training_resumed_finds_what_it_kept_between_steps(
    make_request: Make, tmp_path: Path, interrupted: Interrupted
) -> None:
    request = make_request(epochs=2, checkpoint_every=2, **SHARED)
    whole = trained(request, tmp_path / "whole" / "run")
    interrupted(request)
    resumed = trained(request, tmp_path / "resumed")
    assert resumed["resumed_from_step"] == 4
    assert resumed["policy_digest"] == whole["policy_digest"]
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole" / "run")


@pytest.fixture
def interrupted(tmp_path: Path, run_until: Callable[[TrainRequest, Path, int], None]) -> Callable[[TrainRequest], Path]:
    """Trains five steps in this test's directory and is killed; gives the directory of the checkpoints."""

    def kill(request: TrainRequest) -> Path:
        run_until(request, tmp_path / "killed", 5)
        return tmp_path / "checkpoints" / digest(request)[:16]

    return kill


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_training_resumed_is_bitwise_the_uninterrupted_run(
    zero_stage: int, make_request: Make, tmp_path: Path, interrupted: Interrupted
) -> None:
    request = make_request(epochs=2, checkpoint_every=2, zero_stage=zero_stage)
    whole = trained(request, tmp_path / "whole" / "run")
    interrupted(request)
    resumed = trained(request, tmp_path / "resumed")
    assert resumed["resumed_from_step"] == 4
    assert resumed["policy_digest"] == whole["policy_digest"]
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole" / "run")


def test_training_damaged_checkpoint_resumes_from_the_one_before(
    make_request: Make, tmp_path: Path, interrupted: Interrupted
) -> None:
    request = make_request(epochs=2, checkpoint_every=2)
    checkpoints = interrupted(request)
    newest = max(path for path in (checkpoints / "step-000004").rglob("*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert trained(request, tmp_path / "resumed")["resumed_from_step"] == 2


def test_training_checkpoint_of_another_request_is_not_resumed(
    make_request: Make, tmp_path: Path, interrupted: Interrupted
) -> None:
    interrupted(make_request(epochs=2, checkpoint_every=2))
    assert trained(make_request(epochs=2, checkpoint_every=2, beta=0.2), tmp_path / "other")["resumed_from_step"] == 0


def test_training_reference_of_other_weights_is_caught_at_the_first_step(
    make_request: Make, tmp_path: Path, monkeypatch: Any
) -> None:
    request = make_request()
    scored = training_loop.Objective.micro_batch

    def moved(self: Any, *arguments: Any) -> Any:
        self.reference.chosen.add_(0.05)
        return scored(self, *arguments)

    monkeypatch.setattr(training_loop.Objective, "micro_batch", moved)
    with pytest.raises(RuntimeError, match=r"the first loss is 0\.69.*same digest"):
        trained(request, tmp_path / "run")


def test_training_lora_second_round_refers_to_its_own_adapter(make_request: Make, tmp_path: Path) -> None:
    lora = LoraConfig(rank=4, alpha=8)
    first = make_request(lora=lora, epochs=2, learning_rate=1e-2)
    summary = trained(first, tmp_path / "first")
    assert (tmp_path / "first" / "adapter" / "adapter_model.safetensors").exists()
    assert summary["ln2_checked"]
    assert metrics(tmp_path / "first")[-1]["rewards/margins"] > 0
    policy = trained_ref(tmp_path / "first", first.policy, 1)
    again = trained(make_request(policy=policy, reference=policy, lora=lora), tmp_path / "second")
    assert again["ln2_checked"]
    assert again["reference_digest"] == summary["policy_digest"] != summary["start_digest"]
    against_start = trained(make_request(policy=policy, lora=lora), tmp_path / "third")
    assert not against_start["ln2_checked"]
    assert abs(against_start["first_loss"] - math.log(2)) > 1e-3


def test_training_ipo_starts_at_its_own_known_value(make_request: Make, tmp_path: Path) -> None:
    summary = trained(make_request(loss="ipo", beta=0.1, learning_rate=1e-4), tmp_path / "run")
    assert summary["first_loss"] == pytest.approx(25.0, abs=0.02)
    assert losses(tmp_path / "run")[1] < 24.5


def test_training_bfloat16_learns_and_its_saved_weights_are_bfloat16(make_request: Make, tmp_path: Path) -> None:
    request = make_request(epochs=2)
    request = request.model_copy(update={"limits": request.limits.model_copy(update={"dtype": "bfloat16"})})
    summary = trained(request, tmp_path / "run")
    assert summary["dtype"] == "bfloat16"
    assert summary["first_loss"] == pytest.approx(math.log(2), abs=2e-2)
    assert metrics(tmp_path / "run")[-1]["rewards/margins"] > 0.1


def test_training_gradient_checkpointing_same_losses(plain: Path, make_request: Make, tmp_path: Path) -> None:
    trained(make_request(epochs=2, gradient_checkpointing=True), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(plain), abs=1e-5)


def test_training_in_child_processes_error_is_named(make_request: Make, tmp_path: Path) -> None:
    request = make_request(num_processes=2)
    missing = request.model_copy(
        update={"train": request.train.model_copy(update={"path": tmp_path / "nowhere.parquet"})}
    )
    with pytest.raises(StageFailed, match=r"dpo_train failed: FileNotFoundError.*nowhere\.parquet"):
        run_stage("dpo_train", missing, tmp_path, where=Placement(num_processes=2))
    assert not list(tmp_path.glob("dpo_train"))


@pytest.fixture(scope="module")
def unpaired(make_request: Make, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Requests on responses that are desirable or not: of each four pairs one chosen answer and three rejected ones."""
    directory = tmp_path_factory.mktemp("unpaired")

    def taken(artifact: Artifact) -> Artifact:
        table = read_table(artifact)
        desirable = table.index % 4 == 0
        table["chosen"], table["rejected"] = table["chosen"].where(desirable), table["rejected"].where(~desirable)
        path = directory / artifact.path.name
        write_table(path, table)
        return Artifact(path=path, digest=file_digest(path))

    def make(**changes: Any) -> TrainRequest:
        request = make_request(loss="kto", **changes)
        return request.model_copy(update={"train": taken(request.train), "eval": taken(request.eval)})

    return make


def test_training_unpaired_responses_learns_and_resumes(
    unpaired: Make, tmp_path: Path, interrupted: Interrupted
) -> None:
    request = unpaired(epochs=2, checkpoint_every=2)
    whole = trained(request, tmp_path / "whole" / "run")
    steps = metrics(tmp_path / "whole" / "run")
    assert whole["ln2_checked"]
    assert whole["num_pairs"] == 22
    assert steps[-1]["rewards/chosen"] - steps[-1]["rewards/rejected"] > 0.05
    assert whole["eval"]["num_pairs"] == 6
    interrupted(request)
    assert trained(request, tmp_path / "resumed")["policy_digest"] == whole["policy_digest"]


def test_training_unpaired_responses_two_processes_same_losses_as_one(unpaired: Make, tmp_path: Path) -> None:
    request = unpaired(micro_batch_pairs=3)
    trained(request, tmp_path / "one")
    run_stage("dpo_train", request, tmp_path / "two", where=Placement(num_processes=2))
    alone, together = metrics(tmp_path / "one"), metrics(tmp_path / "two" / "dpo_train")
    for name in ("loss", "kl/mismatched", "rewards/chosen", "logps/rejected"):
        ours, theirs = ([step[name] for step in steps if name in step] for steps in (together, alone))
        assert ours == pytest.approx(theirs, rel=1e-4, abs=2e-5), name


def test_training_without_need_of_a_reference_scores_none(make_request: Make, tmp_path: Path) -> None:
    summary = trained(make_request(loss="simpo", beta=2.0, checkpoint_every=2), tmp_path / "run")
    assert summary["reference_read"] is False
    assert not list(tmp_path.glob("checkpoints/*/reference.safetensors"))
    assert list(tmp_path.glob("checkpoints/*/step-*"))


def test_training_reference_that_follows_is_the_policy_again_and_is_resumed(
    make_request: Make, tmp_path: Path, interrupted: Interrupted
) -> None:
    request = make_request(epochs=2, checkpoint_every=2, reference_sync_steps=3)
    whole = trained(request, tmp_path / "whole" / "run")
    steps = metrics(tmp_path / "whole" / "run")
    assert [step["rewards/margins"] for step in steps if step["step"] in (1, 4)] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert steps[3]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(steps[2]["rewards/margins"]) > 1e-3
    interrupted(request)  # in step 6, after the checkpoint of step 4, whose reference is the policy of step 3
    assert trained(request, tmp_path / "resumed")["resumed_from_step"] == 4
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole" / "run")
    assert read_json(tmp_path / "resumed" / "train.json")["policy_digest"] == whole["policy_digest"]
