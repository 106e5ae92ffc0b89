"""A model that is there by half is refused, in one line that names the tensors; one that is whole is not."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from components.config import LoraConfig, SoftPromptConfig
from components.models.adapters import load_adapter, save_adapter, with_fresh_adapter
from components.models.loading import load_policy
from components.records import ModelRef

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def llama(**changes: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SMALL, **changes))


def load(path: Path) -> Any:
    ref = ModelRef(round=0, base=str(path), base_digest="", digest="")
    return load_policy(ref, dtype=torch.float32, device=torch.device("cpu"))


def change_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_tensors(file: Path, *, drop: str = "", add: str = "") -> None:
    tensors = {name: tensor for name, tensor in load_file(file).items() if not drop or drop not in name}
    save_file(tensors | ({add: torch.ones(2)} if add else {}), file, metadata={"format": "pt"})


@pytest.mark.parametrize("tied", [False, True])
def test_load_policy_of_a_whole_model_is_the_same_at_each_load(tied: bool, tmp_path: Path) -> None:
    saved = llama(tie_word_embeddings=tied)
    saved.save_pretrained(tmp_path)
    change_tensors(tmp_path / "model.safetensors", add="model.layers.0.self_attn.rotary_emb.inv_freq")
    loaded = load(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in saved.state_dict().items())


def test_load_policy_without_its_head_is_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    change_tensors(tmp_path / "model.safetensors", drop="lm_head")
    with pytest.raises(
        ValueError, match=r"lacks weights \(lm_head.weight\), which would be random at each load: name "
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (3, r"lacks weights \(model\.layers\.2\.input_layernorm\.weight, .* and 6 more\)"),
        (1, r"holds weights that LlamaForCausalLM does not use \(model\.layers\.1\..* and 6 more\)"),
    ],
)
def test_load_policy_with_another_number_of_layers_is_refused(layers: int, message: str, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    change_config(tmp_path, num_hidden_layers=layers)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_load_policy_of_a_reward_model_is_refused(tied: bool, tmp_path: Path) -> None:
    """A tied one lacks nothing, since its head is its embedding."""
    LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=1, tie_word_embeddings=tied)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=r"does not use \(score\.weight\)") as error:
        load(tmp_path)
    assert ("lacks weights (lm_head.weight)" in str(error.value)) is not tied


def test_load_policy_of_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    sizes = {
        f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")
    }
    BartForConditionalGeneration(BartConfig(vocab_size=40, d_model=8, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks weights \(.*decoder.embed_tokens.weight.* does not use \(.*encoder"):
        load(tmp_path)


def test_load_policy_with_weights_of_another_shape_is_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    change_config(tmp_path, intermediate_size=32)
    with pytest.raises(
        ValueError, match=r"has \(16, 24\) for model.layers.0.mlp.down_proj.weight .* asks for \(16, 32\)"
    ):
        load(tmp_path)


def test_load_policy_with_old_buffers_is_fine(tmp_path: Path) -> None:
    saved = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_head=2, n_layer=1, n_positions=8))
    saved.save_pretrained(tmp_path)
    change_tensors(tmp_path / "model.safetensors", add="transformer.h.0.attn.bias")
    assert torch.equal(load(tmp_path).get_input_embeddings().weight, saved.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "layers.1.self_attn.q_proj.lora_B"}, "lacks weights"),
        ({"add": "base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight"}, "holds weights without a place"),
    ],
)
def test_load_adapter_that_is_partial_is_refused(change: dict[str, str], message: str, tmp_path: Path) -> None:
    """peft warns at most, and leaves what is missing as it was before training."""
    model = with_fresh_adapter(llama(), LoraConfig(rank=2), SoftPromptConfig())
    save_adapter(model, model.state_dict(), tmp_path)
    load_adapter(llama(), tmp_path, trainable=False)
    change_tensors(tmp_path / "adapter_model.safetensors", **change)
    with (
        pytest.warns(match="missing adapter keys") if "drop" in change else nullcontext(),
        pytest.raises(ValueError, match=message),
    ):
        load_adapter(llama(), tmp_path, trainable=False)
