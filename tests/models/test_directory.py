"""A model that cannot be a policy is refused at the start, in one line with the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM

from components.config import LoraConfig, SoftPromptConfig
from components.models import directory
from components.models.adapter_fit import check_adapter_fits
from components.models.causality import check_causal
from components.models.directory import check_model_directory, check_policy_directory

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def model(starter_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(starter_directory, tmp_path / "model"))


def change_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def lfs_pointer(path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n"
    (path / "model.safetensors").write_text(text)


def cut_off(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def a_web_page(path: Path) -> None:
    (path / "model.safetensors").write_text("<html>404</html>")


def an_adapter(path: Path) -> None:
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "meta/base"}')


def in_four_bits(path: Path) -> None:
    change_config(path, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lfs_pointer, r"model\.safetensors is a Git LFS pointer and not the weights: run `git lfs pull` in "),
        (cut_off, r"model\.safetensors is cut off \(\d+ of \d+ bytes\): download it again"),
        (a_web_page, r"model\.safetensors is not a safetensors file"),
        (an_adapter, r"is an adapter on meta/base: name the model that it was merged into"),
        (in_four_bits, r"was saved in the format of bitsandbytes, which is not installed: pip install bitsandbytes"),
    ],
)
def test_check_model_directory_refuses_what_cannot_be_loaded(
    spoil: Callable[[Path], None], message: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory.importlib.util, "find_spec", lambda name: None)
    check_model_directory(model)
    spoil(model)
    with pytest.raises(ValueError, match=message):
        check_model_directory(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_encoder_decoder": True, "architectures": ["T5Model"]}, r"is an encoder-decoder \(T5Model\)"),
        ({"architectures": ["LlamaForSequenceClassification"]}, r"\(LlamaForSequenceClassification\), as a reward"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized weights, which cannot be trained: set `lora"),
    ],
)
def test_check_policy_directory_refuses_what_is_no_policy(changes: dict[str, Any], message: str, model: Path) -> None:
    check_policy_directory(model, trains_adapter=False)
    change_config(model, **changes)
    with pytest.raises(ValueError, match=message):
        check_policy_directory(model, trains_adapter=False)


def test_check_causal_refuses_an_encoder() -> None:
    sizes = SMALL | {"initializer_range": 0.02}
    check_causal(LlamaForCausalLM(LlamaConfig(**sizes)).eval())
    with pytest.raises(ValueError, match="BertLMHeadModel is not a causal language model"):
        check_causal(BertLMHeadModel(BertConfig(**sizes)).eval())


@pytest.mark.parametrize(
    ("model_type", "adapter", "message"),
    [
        (
            "mamba2",
            {"rank": 2},
            r"all-linear does not fit model .* incompatible with Mamba.* are in_proj, lm_head",
        ),
        ("mamba2", {"kind": "prefix"}, r"soft_prompt.kind = prefix does not fit model .*Mamba2ForCausalLM"),
        ("llama", {"rank": 2, "target_modules": "query"}, r"lora.target_modules = query does not fit .*not found"),
        ("llama", {"rank": 2, "target_modules": "q_proj, query"}, r"no module is named query; its linear layers are "),
    ],
)
def test_check_adapter_fits_names_what_does_not(
    model_type: str, adapter: dict[str, Any], message: str, tmp_path: Path
) -> None:
    sizes = {"num_heads": 4, "head_dim": 8, "n_groups": 2, "state_size": 4} if model_type == "mamba2" else {}
    AutoConfig.for_model(model_type, **SMALL, **sizes).save_pretrained(tmp_path)
    lora = LoraConfig.model_validate({key: value for key, value in adapter.items() if key != "kind"})
    soft_prompt = SoftPromptConfig.model_validate({"kind": adapter.get("kind", "none")})
    with pytest.raises(ValueError, match=message):
        check_adapter_fits(tmp_path, lora, soft_prompt)


@pytest.mark.parametrize("modules", ["all-linear", "q_proj, lm_head"])
def test_check_adapter_fits_loads_no_weights(modules: str, tmp_path: Path) -> None:
    LlamaConfig(**SMALL).save_pretrained(tmp_path)
    check_adapter_fits(tmp_path, LoraConfig(rank=2, target_modules=modules), SoftPromptConfig())
    check_adapter_fits(tmp_path, LoraConfig(), SoftPromptConfig(kind="prefix"))
    assert not list(tmp_path.glob("*.safetensors"))


def test_models_of_experts_are_loaded_without_their_router_s_loss(tmp_path: Path) -> None:
    """Its loss is not trained, and fails where only some logits are read."""
    from components.models.loading import load_policy
    from components.records import ModelRef

    sizes = SMALL | {
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "num_key_value_heads": 2,
        "output_router_logits": True,
    }
    AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **sizes)).save_pretrained(tmp_path)
    ref = ModelRef(round=0, base=str(tmp_path), base_digest="", digest="")
    loaded = load_policy(ref, dtype=torch.float32, device=torch.device("cpu"))
    assert loaded(input_ids=torch.arange(6).view(1, 6)).router_logits is None
