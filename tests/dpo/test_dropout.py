"""An adapter's dropout: on in training passes only, the same after a resume, and never in what is measured."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, LlamaConfig

from components.artifacts import read_json
from components.config import CampaignConfig, LoraConfig
from components.dpo.stage import run
from components.models.adapters import with_fresh_adapter
from components.models.dropout import AdapterDropout
from components.models.loading import load_policy, trained_ref
from components.models.merging import merge
from components.models.noise import prepare_training, refuse_noise
from components.records import TrainRequest
from components.runtime.launch import Placement, run_stage
from components.scoring.batch import Batch
from components.scoring.packed import last_layer
from components.scoring.response_logps import token_logps

Make = Callable[..., TrainRequest]
DROPPED = LoraConfig(rank=4, alpha=8, dropout=0.3)
PROMPTS, RESPONSES = [[5, 6, 7], [5, 6, 7], [8]], [[9, 10, 11], [12], [13, 14]]


def trained(request: TrainRequest, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True)
    run(request, out)
    return read_json(out / "train.json")


def column(directory: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def adapted(kind: str = "lora") -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    settings = PeftLoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=kind == "dora")
    model = get_peft_model(AutoModelForCausalLM.from_config(config), settings)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1)
    prepare_training(model)
    return model


def logps(model: Any) -> torch.Tensor:
    return token_logps(model, Batch(PROMPTS, RESPONSES, 0, torch.device("cpu")))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_masks_drop_the_share_of_the_adapters_inputs_in_packed_rows_and_scale_the_rest(kind: str) -> None:
    model = adapted(kind)
    logps(model)  # the trial of packed rows
    dropout = AdapterDropout(model, 0.3, seed=1, rank=0)
    entered: list[torch.Tensor] = []
    for name, module in model.named_modules():
        if name.endswith("lora_dropout.default"):
            module.register_forward_hook(lambda _, args, output: entered.append(torch.stack([args[0], output])))
    with dropout.masks(step=0, micro_batch=0):
        logps(model)
    assert len(entered) == 14, "seven layers in each of two blocks"
    inputs, outputs = torch.cat([pair.flatten(1) for pair in entered], dim=1)
    dropped = outputs == 0
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(outputs[~dropped], inputs[~dropped] / 0.7)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_masks_end_with_their_block_and_leave_the_random_numbers_as_they_were(kind: str) -> None:
    model = adapted(kind)
    before = logps(model)
    dropout = AdapterDropout(model, 0.3, seed=1, rank=0)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with dropout.masks(step=0, micro_batch=0):
        assert not torch.allclose(logps(model), before, atol=1e-4)
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)
    torch.testing.assert_close(logps(model), before, rtol=0, atol=0)
    refuse_noise(model)


def test_masks_differ_by_step_micro_batch_rank_and_seed_and_by_nothing_else() -> None:
    def once(*, step: int = 0, micro_batch: int = 0, **place: int) -> torch.Tensor:
        model = adapted()
        torch.rand(int(torch.randint(10, ())))  # whatever was drawn before
        with AdapterDropout(model, 0.3, **({"seed": 1, "rank": 0} | place)).masks(step, micro_batch):
            return logps(model).detach()

    plain = once()
    torch.testing.assert_close(once(), plain, rtol=0, atol=0)
    for other in ({"step": 1}, {"micro_batch": 1}, {"rank": 1}, {"seed": 2}):
        assert not torch.allclose(once(**other), plain, atol=1e-4), other


def test_layers_that_compute_again_drop_the_same_activations(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backward pass would otherwise take the gradient of another function: losses agree and gradients do not.

    A last layer that computes again reads all rows, so the other one must too: masks follow the shapes.
    """
    monkeypatch.setattr(last_layer, "WORTH_IT", 0.0)
    for name, again in (("plain", False), ("again", True)):
        trained(make_request(lora=DROPPED, learning_rate=1e-2, gradient_checkpointing=again), tmp_path / name)
    for key in ("loss", "grad_norm"):
        assert column(tmp_path / "again", key) == pytest.approx(column(tmp_path / "plain", key), rel=1e-4), key


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_second_round_begins_at_ln_2_without_dropout_and_trains_with_it(
    kind: str, make_request: Make, tmp_path: Path
) -> None:
    lora = DROPPED.model_copy(update={"kind": kind})
    first = make_request(lora=lora, learning_rate=1e-2)
    trained(first, tmp_path / "first")
    policy = trained_ref(tmp_path / "first", first.policy, 1)
    second = trained(make_request(lora=lora, policy=policy, reference=policy), tmp_path / "second")
    assert second["ln2_checked"]
    assert second["first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(column(tmp_path / "second", "loss")[0] - math.log(2)) > 1e-4, "the step itself drops activations"
    assert read_json(tmp_path / "second" / "adapter" / "adapter_config.json")["lora_dropout"] == 0.3
    without = lora.model_copy(update={"dropout": 0.0})
    third = trained(make_request(lora=without, policy=policy, reference=policy), tmp_path / "third")
    assert third["first_loss"] == column(tmp_path / "third", "loss")[0] == pytest.approx(math.log(2), abs=1e-6)


def test_dropout_may_begin_in_a_later_round(make_request: Make, tmp_path: Path) -> None:
    """peft gives an adapter that was saved without dropout no module for it."""
    without = DROPPED.model_copy(update={"dropout": 0.0})
    first = make_request(lora=without, learning_rate=1e-2)
    trained(first, tmp_path / "first")
    policy = trained_ref(tmp_path / "first", first.policy, 1)
    for name, lora in (("with", DROPPED), ("without", without)):
        trained(make_request(lora=lora, policy=policy, reference=policy), tmp_path / name)
    assert column(tmp_path / "with", "grad_norm")[0] != pytest.approx(column(tmp_path / "without", "grad_norm")[0])


@pytest.mark.parametrize("changes", [{"zero_stage": 0}, {"zero_stage": 2}, {"loss": "simpo", "beta": 2.0}])
def test_resumed_training_drops_what_the_uninterrupted_one_dropped(
    changes: dict[str, Any],
    make_request: Make,
    run_until: Callable[[TrainRequest, Path, int], None],
    tmp_path: Path,
) -> None:
    request = make_request(lora=DROPPED, epochs=2, checkpoint_every=2, micro_batch_pairs=3, **changes)
    whole = trained(request, tmp_path / "whole" / "run")
    run_until(request, tmp_path / "killed", 5)
    resumed = trained(request, tmp_path / "resumed")
    assert resumed["resumed_from_step"] == 4
    assert resumed["policy_digest"] == whole["policy_digest"]
    assert resumed["first_loss"] == whole["first_loss"]
    assert column(tmp_path / "resumed", "loss") == column(tmp_path / "whole" / "run", "loss")


def test_two_processes_drop_and_end_at_one_model(make_request: Make, tmp_path: Path) -> None:
    request = make_request(lora=DROPPED, num_processes=2, zero_stage=3, micro_batch_pairs=2)
    run_stage("dpo_train", request, tmp_path, where=Placement(num_processes=2))
    summary = read_json(tmp_path / "dpo_train" / "train.json")
    assert summary["ln2_checked"]
    assert summary["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert summary["eval"] is not None


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_dropout_of_a_loss_that_couples_pairs_is_refused(loss: str) -> None:
    with pytest.raises(ValueError, match=rf"training.loss {loss} compares the pairs.*set `lora: .dropout: 0.`"):
        CampaignConfig.model_validate(
            {"campaign": "c", "lora": {"rank": 4, "dropout": 0.1}, "training": {"loss": loss}}
        )


@pytest.mark.parametrize("name", ["dropout", "rank_stabilized"])
def test_setting_of_an_adapter_without_a_rank_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs a rank: set `lora: .rank: 16.`"):
        LoraConfig.model_validate({name: True if name == "rank_stabilized" else 0.1})


def test_rank_stabilized_adapter_is_scaled_by_the_root_of_its_rank_when_trained_loaded_and_merged(
    make_request: Make, tmp_path: Path
) -> None:
    lora = LoraConfig(rank=16, alpha=8, rank_stabilized=True)
    base = load_policy(make_request().policy, dtype=torch.float32, device=torch.device("cpu"))
    layers = with_fresh_adapter(base, lora, make_request().soft_prompt).modules()
    scales = {module.scaling["default"] for module in layers if isinstance(module, LoraLayer)}
    assert scales == {2.0}, "8 / sqrt(16), where plain LoRA has 8 / 16"
    first = make_request(lora=lora, learning_rate=1e-2)
    summary = trained(first, tmp_path / "first")
    assert summary["adapter"] == "lora of rank 16, alpha 8, rank-stabilized"
    policy = trained_ref(tmp_path / "first", first.policy, 1)
    loaded: Any = load_policy(policy, dtype=torch.float32, device=torch.device("cpu"))
    unmerged = logps(loaded)
    torch.testing.assert_close(logps(merge(loaded)), unmerged, atol=1e-4, rtol=0)
    assert trained(make_request(lora=lora, policy=policy, reference=policy), tmp_path / "second")["ln2_checked"]
    plain = lora.model_copy(update={"rank_stabilized": False})
    with pytest.raises(ValueError, match=r"rank 16, alpha 8, rank-stabilized.*asks for another .lora of rank 16"):
        trained(make_request(lora=plain, policy=policy, reference=policy), tmp_path / "third")
