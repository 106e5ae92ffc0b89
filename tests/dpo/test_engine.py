from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GptOssConfig, LlamaConfig, MambaConfig, OPTConfig

from components.config import TrainingConfig
from components.dpo.engine import build_engine, decay_groups, join_process_group

SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIGS: dict[str, Any] = {
    "norms without biases": LlamaConfig(**SIZES, intermediate_size=16),
    "biases": OPTConfig(**SIZES, ffn_dim=16, word_embed_proj_dim=16),
    "stacked biases of experts": GptOssConfig(
        **SIZES, intermediate_size=16, num_local_experts=4, head_dim=8, num_key_value_heads=2
    ),
    "rates": MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1),
}


EXEMPT = ("norm.weight", "norm_f.weight", "bias", "sinks", "mixer.D", "A_log")


@pytest.mark.parametrize("name", CONFIGS)
def test_weight_decay_spares_norms_and_biases(name: str) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    names = {id(weight): name for name, weight in model.named_parameters()}
    decaying, exempt = decay_groups(model, 0.1)
    assert (decaying["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    spared = {names[id(weight)] for weight in exempt["params"]}
    assert spared == {name for name in names.values() if name.endswith(EXEMPT)}
    assert len(decaying["params"]) + len(spared) == len(names)
    assert all(weight.ndim >= 2 for weight in decaying["params"])


def test_weight_decay_of_an_adapter_has_no_empty_group_and_steps() -> None:
    """DeepSpeed's first step fails on a group without weights."""
    model = AutoModelForCausalLM.from_config(CONFIGS["norms without biases"])
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert [len(group["params"]) > 0 for group in decay_groups(adapted, 0.1)] == [True]
    join_process_group()
    engine = build_engine(adapted, TrainingConfig(weight_decay=0.1), num_steps=2, dtype=torch.float32)
    ids = torch.arange(8).view(1, 8)
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_weight_decay_pulls_matrices_and_leaves_norms(zero_stage: int) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["norms without biases"])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    join_process_group()
    training = TrainingConfig(weight_decay=0.5, learning_rate=0.1, warmup_share=0.0, zero_stage=zero_stage)
    engine = build_engine(model, training, num_steps=2, dtype=torch.float32)
    engine.backward(sum(weight.sum() * 0 for weight in model.parameters()))
    engine.step()
    for name, weight in engine.module.named_parameters():
        factor = 1.0 if name.endswith("norm.weight") else 1 - 0.1 * 0.5
        torch.testing.assert_close(weight, factor * before[name], msg=name)


def test_no_weight_decay_is_one_group() -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["biases"])
    (group,) = decay_groups(model, 0.0)
    assert [id(weight) for weight in group["params"]] == [id(weight) for weight in model.parameters()]
