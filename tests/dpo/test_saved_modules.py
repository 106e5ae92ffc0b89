"""Modules whose own weights are trained beside an adapter: with a head of its own, and with one that is tied."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig

from components.artifacts import read_json
from components.config import CampaignConfig, LoraConfig, SoftPromptConfig
from components.dpo.stage import run
from components.models import vllm
from components.models.adapter_fit import check_adapter_fits
from components.models.adapters import output_head
from components.models.loading import load_policy, start_ref, tensors_digest, trained_ref
from components.models.merging import merge
from components.records import Artifact, ModelRef, TrainRequest
from components.runtime.launch import Placement, run_stage
from components.scoring.batch import Batch
from components.scoring.padded import padded_token_logps
from components.scoring.response_logps import scoring_path, token_logps

Make = Callable[..., TrainRequest]
NAMES = {"own head": "embed_tokens, lm_head", "tied head": "lm_head", "tied head, a layer": "embed_tokens,up_proj"}
HEAD, EMBEDDING = "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"
PROMPTS, RESPONSES = [[5, 6, 7], [5, 6, 7], [8]], [[9, 10, 11], [12], [13, 14]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def starts(starter_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRef]:
    refs = {}
    for kind in NAMES:
        directory = tmp_path_factory.mktemp("start") / "model"
        config = AutoConfig.from_pretrained(starter_directory)
        config.tie_word_embeddings = kind != "own head"
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
        AutoTokenizer.from_pretrained(starter_directory).save_pretrained(directory)
        refs[kind] = start_ref(directory, revision="main")
    return refs


def lora(kind: str, **changes: Any) -> LoraConfig:
    return LoraConfig(rank=4, alpha=8, modules_to_save=NAMES[kind], **changes)


def trained(request: TrainRequest, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True)
    run(request, out)
    return read_json(out / "train.json")


def column(directory: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", NAMES)
def test_rounds_continue_measure_and_merge_the_saved_modules(
    kind: str, starts: dict[str, ModelRef], make_request: Make, tmp_path: Path
) -> None:
    start = starts[kind]
    settings: dict[str, Any] = {"lora": lora(kind), "learning_rate": 1e-2}
    first = trained(make_request(policy=start, reference=start, **settings), tmp_path / "first")
    assert first["ln2_checked"]
    assert first["adapter"] == f"lora of rank 4, alpha 8, with {', '.join(lora(kind).saved_modules)} in full"
    assert first["scoring"] == {"packed": True, "reason": None}
    saved = load_file(tmp_path / "first" / "adapter" / "adapter_model.safetensors")
    own = load_file(Path(start.base) / "model.safetensors")
    assert not torch.equal(saved[EMBEDDING], own["model.embed_tokens.weight"])
    assert torch.equal(saved[HEAD], saved[EMBEDDING]) is (kind != "own head")
    policy = trained_ref(tmp_path / "first", start, 1)
    second = trained(make_request(policy=policy, reference=policy, **settings), tmp_path / "second")
    assert second["ln2_checked"]
    assert second["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert second["start_digest"] == first["policy_digest"] != second["policy_digest"]
    against_start = trained(make_request(policy=policy, reference=start, **settings), tmp_path / "against start")
    assert abs(against_start["first_loss"] - math.log(2)) > 1e-3
    full = trained(make_request(policy=policy, reference=policy, learning_rate=1e-3), tmp_path / "full")
    assert full["directory"] == "model"
    assert full["ln2_checked"], "the merged weights score as the adapter and its saved modules do"
    with safe_open(tmp_path / "full" / "model" / "model.safetensors", framework="pt") as tensors:
        assert ("lm_head.weight" in tensors.keys()) is (kind == "own head")  # noqa: SIM118


@pytest.mark.parametrize("kind", ["own head", "tied head"])
def test_saved_modules_are_the_same_at_every_zero_stage(
    kind: str, starts: dict[str, ModelRef], make_request: Make, tmp_path: Path
) -> None:
    for stage in (0, 1, 2, 3):
        request = make_request(policy=starts[kind], reference=starts[kind], lora=lora(kind), zero_stage=stage)
        assert trained(request, tmp_path / str(stage))["ln2_checked"]
    expected = load_file(tmp_path / "0" / "adapter" / "adapter_model.safetensors")
    for stage in (1, 2, 3):
        assert column(tmp_path / str(stage), "loss") == pytest.approx(column(tmp_path / "0", "loss"), abs=3e-5)
        saved = load_file(tmp_path / str(stage) / "adapter" / "adapter_model.safetensors")
        assert {name: tensor.shape for name, tensor in saved.items()} == {
            name: tensor.shape for name, tensor in expected.items()
        }
        torch.testing.assert_close(saved[EMBEDDING], expected[EMBEDDING], atol=2e-3, rtol=0)


def test_two_processes_train_a_tied_head_as_one_does(
    starts: dict[str, ModelRef], make_request: Make, tmp_path: Path
) -> None:
    start = starts["tied head"]
    trained(make_request(policy=start, reference=start, lora=lora("tied head")), tmp_path / "one")
    request = make_request(
        policy=start, reference=start, lora=lora("tied head"), zero_stage=3, num_processes=2, micro_batch_pairs=2
    )
    run_stage("dpo_train", request, tmp_path / "two", where=Placement(num_processes=2))
    assert column(tmp_path / "two" / "dpo_train", "loss") == pytest.approx(column(tmp_path / "one", "loss"), abs=3e-5)
    saved = load_file(tmp_path / "two" / "dpo_train" / "adapter" / "adapter_model.safetensors")
    assert torch.equal(saved[HEAD], saved[EMBEDDING])


def with_saved_head(kind: str, starts: dict[str, ModelRef], make_request: Make, out: Path) -> ModelRef:
    request = make_request(policy=starts[kind], reference=starts[kind], lora=lora(kind), learning_rate=1e-2)
    trained(request, out)
    return trained_ref(out, starts[kind], 1)


@pytest.mark.parametrize("kind", ["own head", "tied head"])
def test_saved_head_is_the_one_that_scores_in_packed_rows_and_learns(
    kind: str, starts: dict[str, ModelRef], make_request: Make, tmp_path: Path
) -> None:
    """peft puts a wrapper in the head's place; the frozen original below it would score as the start does."""
    ref = with_saved_head(kind, starts, make_request, tmp_path / "run")
    model: Any = load_policy(ref, dtype=torch.float32, device=CPU, trainable_adapter=True)
    batch = Batch(PROMPTS, RESPONSES, 0, CPU)
    assert scoring_path(model, batch.longest).packed
    packed = token_logps(model, batch)
    padded = batch.spread(padded_token_logps(model, PROMPTS, RESPONSES))
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    weights = [output_head(model).weight, model.get_base_model().get_input_embeddings().weight]
    for ours, theirs in zip(
        torch.autograd.grad(packed.sum(), weights), torch.autograd.grad(padded.sum(), weights), strict=True
    ):
        assert ours.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    with torch.no_grad(), model.disable_adapter():
        start = load_policy(starts[kind], dtype=torch.float32, device=CPU)
        torch.testing.assert_close(token_logps(model, batch), token_logps(start, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["own head", "tied head"])
def test_saved_modules_load_in_peft_and_in_transformers_and_merge_to_the_same(
    kind: str, starts: dict[str, ModelRef], make_request: Make, tmp_path: Path
) -> None:
    ref = with_saved_head(kind, starts, make_request, tmp_path / "run")
    ids = torch.tensor([[5, 6, 7, 20, 21]])
    with torch.no_grad():
        model: Any = load_policy(ref, dtype=torch.float32, device=CPU)
        expected = model(input_ids=ids).logits
        assert ref.adapter is not None
        base = AutoModelForCausalLM.from_pretrained(ref.base, dtype=torch.float32)
        torch.testing.assert_close(
            PeftModel.from_pretrained(base, str(ref.adapter)).eval()(input_ids=ids).logits, expected, atol=1e-5, rtol=0
        )
        served = AutoModelForCausalLM.from_pretrained(ref.adapter, dtype=torch.float32).eval()
        torch.testing.assert_close(served(input_ids=ids).logits, expected, atol=1e-5, rtol=0)
        merged = merge(model)
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=0)
        merged.save_pretrained(tmp_path / "merged")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
        torch.testing.assert_close(again(input_ids=ids).logits, expected, atol=1e-4, rtol=0)


def test_saved_modules_in_bfloat16_go_on_from_their_masters_and_resume(
    starts: dict[str, ModelRef],
    make_request: Make,
    run_until: Callable[[TrainRequest, Path, int], None],
    tmp_path: Path,
) -> None:
    def request(**changes: Any) -> TrainRequest:
        made = make_request(lora=lora("tied head"), learning_rate=1e-3, checkpoint_every=1, **changes)
        return made.model_copy(update={"limits": made.limits.model_copy(update={"dtype": "bfloat16"})})

    start = starts["tied head"]
    first = trained(request(policy=start, reference=start), tmp_path / "first")
    masters = sorted((tmp_path / "first" / "master").glob("*.safetensors"))
    assert first["master_digest"] == tensors_digest(masters)
    (master,) = [weight for name, weight in load_file(masters[0]).items() if "modules_to_save" in name]
    saved = load_file(tmp_path / "first" / "adapter" / "adapter_model.safetensors")
    assert torch.equal(master.to(torch.bfloat16), saved[EMBEDDING])
    policy = trained_ref(tmp_path / "first", start, 1)
    artifact = Artifact(path=tmp_path / "first" / "master", digest=first["master_digest"])
    second = request(policy=policy, reference=policy).model_copy(update={"master": artifact})
    whole = trained(second, tmp_path / "whole" / "run")
    assert whole["from_masters"]
    assert whole["ln2_checked"]
    run_until(second, tmp_path / "killed", 2)
    resumed = trained(second, tmp_path / "resumed")
    assert resumed["resumed_from_step"] == 1
    assert resumed["policy_digest"] == whole["policy_digest"]


def test_other_saved_modules_than_the_round_before_are_refused(
    starts: dict[str, ModelRef], make_request: Make, tmp_path: Path
) -> None:
    ref = with_saved_head("own head", starts, make_request, tmp_path / "run")
    for names, told in (("lm_head", "= 'lm_head' names lm_head"), ("", "= '' names no module")):
        changed = LoraConfig(rank=4, alpha=8, modules_to_save=names)
        with pytest.raises(ValueError, match=f"trained lm_head, model.embed_tokens beside its adapter.*{told}: set it"):
            trained(make_request(policy=ref, reference=ref, lora=changed), tmp_path / f"other {names}")
    same = LoraConfig(rank=4, alpha=8, modules_to_save="lm_head,model.embed_tokens")
    assert trained(make_request(policy=ref, reference=ref, lora=same), tmp_path / "same")["ln2_checked"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"generation": {"engine": "vllm"}}, "vllm does not work with lora.modules_to_save"),
        ({"policy": {"quantization": "4bit"}}, "trains whole weights, and policy.quantization 4bit"),
        ({"lora": {"modules_to_save": "lm_head"}}, "modules_to_save needs a rank"),
        (
            {"lora": {"rank": 4, "modules_to_save": "lm_head", "target_modules": "q_proj, lm_head"}},
            "both name lm_head: leave it out of one",
        ),
    ],
)
def test_saved_modules_that_nothing_could_use_are_refused_by_the_configuration(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        CampaignConfig.model_validate({"campaign": "c", "lora": {"rank": 4, "modules_to_save": "lm_head"}} | changes)


SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
GPT2 = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)


@pytest.mark.parametrize(
    ("config", "settings", "told"),
    [
        (LlamaConfig(**SMALL), {"modules_to_save": "head"}, "no module is named head; it has down_proj, embed_tokens"),
        (GPT2, {"modules_to_save": "wte"}, "its head and its embedding are one tensor, and would come apart"),
        (
            LlamaConfig(**SMALL, tie_word_embeddings=True),
            {"modules_to_save": "embed_tokens", "target_modules": "q_proj, lm_head"},
            "modules_to_save cannot be applied",
        ),
    ],
)
def test_saved_modules_that_do_not_fit_the_model_are_refused_before_the_first_round(
    config: Any, settings: dict[str, str], told: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=told):
        check_adapter_fits(tmp_path, LoraConfig(rank=2, **settings), SoftPromptConfig())
    check_adapter_fits(tmp_path, LoraConfig(rank=2, modules_to_save="lm_head"), SoftPromptConfig())


def test_vllm_takes_no_adapter_with_saved_modules() -> None:
    settings = {"r": 8, "modules_to_save": ["lm_head"]}
    assert not vllm.takes(settings)
    assert vllm.takes(settings | {"modules_to_save": None})
    with pytest.raises(ValueError, match="does not support weights that are trained beside an adapter: do this"):
        vllm.largest_rank(settings, "do this")
