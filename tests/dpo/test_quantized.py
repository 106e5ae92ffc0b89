"""An adapter on a base that is held in 4 bits, and what is said where bitsandbytes is missing."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.artifacts import read_json
from components.config import CampaignConfig, LoraConfig
from components.dpo.stage import run
from components.models.loading import load_policy, trained_ref
from components.models.rounding import in_fp32
from components.records import ModelRef, TrainRequest
from components.scoring.padded import padded_token_logps
from components.scoring.response_logps import scoring_path
from components.start.preflight import check_inputs

Make = Callable[..., TrainRequest]


def quantized(request: TrainRequest) -> TrainRequest:
    return request.model_copy(update={"limits": request.limits.model_copy(update={"quantization": "4bit"})})


def test_4bit_without_bitsandbytes_says_what_to_install(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest)
    )
    told = r"policy\.quantization = 4bit needs bitsandbytes: pip install bitsandbytes, or set"
    with pytest.raises(ValueError, match=told):
        run(quantized(make_request(lora=LoraConfig(rank=4))), tmp_path)
    with pytest.raises(ValueError, match=told):
        check_inputs(
            CampaignConfig.model_validate({"campaign": "four", "policy": {"quantization": "4bit"}, "lora": {"rank": 4}})
        )


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_4bit_base_two_rounds_refer_to_the_adapter_they_start_from(
    kind: str, make_request: Make, tmp_path: Path
) -> None:
    lora = LoraConfig.model_validate({"rank": 4, "alpha": 8, "kind": kind})
    policy: ModelRef | None = None
    for number in (1, 2):
        out = tmp_path / str(number)
        out.mkdir()
        models = {} if policy is None else {"policy": policy, "reference": policy}
        request = quantized(make_request(lora=lora, learning_rate=1e-2, **models))
        run(request, out)
        trained = read_json(out / "train.json")
        assert trained["ln2_checked"]
        assert trained["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert trained["quantization"] == "4bit"
        assert trained["start_digest"] == request.policy.digest
        assert trained["scoring"] == {"packed": True, "reason": None}
        policy = trained_ref(out, request.policy, number)
        assert trained["policy_digest"] == policy.digest
    assert policy is not None
    loaded = load_policy(policy, dtype=torch.float32, device=torch.device("cpu"), quantization="4bit")
    assert any(parameter.dtype == torch.uint8 for parameter in loaded.parameters())


def test_4bit_base_in_bfloat16_is_packed_and_can_compute_in_fp32(make_request: Make) -> None:
    """Its quantised layers are turned to fp32 as well: else the trial would take what they lose for no loss at all."""
    model = load_policy(make_request().policy, dtype=torch.bfloat16, device=torch.device("cpu"), quantization="4bit")
    found: list[torch.dtype] = []

    def note(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        found.append(output.dtype)

    layer = next(module for module in model.modules() if hasattr(module, "compute_dtype"))
    assert scoring_path(model, 64) == (True, None)
    layer.register_forward_hook(note)
    rows = [[5, 6, 7]], [[8, 9, 10]]
    with torch.no_grad():
        with in_fp32(model):
            exact = padded_token_logps(model, *rows)
        low = padded_token_logps(model, *rows)
    assert found == [torch.float32, torch.bfloat16]
    assert layer.compute_dtype == torch.bfloat16
    assert 0 < (low - exact).abs().max() < 0.5
