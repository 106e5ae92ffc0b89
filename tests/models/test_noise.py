"""What a policy computes in training is what it computes when it samples, whatever kind of noise its model has.

In training mode the logits of each model below differ between two forwards on the same tokens.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BioGptConfig,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    PhimoeConfig,
    StableLmConfig,
)

from components.models.noise import prepare_training, recompute_activations, refuse_noise

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
WIDE = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
NOISY: dict[str, Callable[[], Any]] = {
    "functional dropout, layer drop": lambda: OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, layerdrop=0.3),
    "layer drop": lambda: BioGptConfig(**SIZES, intermediate_size=48, layerdrop=0.5),
    "router jitter": lambda: MixtralConfig(**WIDE, num_local_experts=4, router_jitter_noise=0.1),
    "sampled experts": lambda: PhimoeConfig(**WIDE, num_local_experts=4, input_jitter_noise=0.05),
    "dropout from the config": lambda: FalconConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, hidden_dropout=0.1
    ),
    "dropout of a module's name": lambda: BloomConfig(
        vocab_size=96, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.1, attention_dropout=0.1
    ),
    "dropout modules": lambda: GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "pdrop": lambda: PhiConfig(**WIDE, resid_pdrop=0.1, embd_pdrop=0.1),
    "hidden dropout": lambda: GPTNeoXConfig(**SIZES, intermediate_size=48, hidden_dropout=0.1),
    "attention dropout": lambda: GraniteConfig(**WIDE, attention_dropout=0.1),
    "attention and hidden dropout": lambda: StableLmConfig(**WIDE, hidden_dropout=0.1, attention_dropout=0.1),
}
IDS = torch.arange(20, 44).unsqueeze(0)


def build(name: str) -> Any:
    config = NOISY[name]()
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, None, None
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


def gradient(model: Any) -> torch.Tensor:
    model.zero_grad()
    logits(model).square().sum().backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("recomputing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", NOISY)
def test_training_computes_what_sampling_does(name: str, recomputing: bool) -> None:
    model = build(name).train()
    assert not torch.equal(logits(model), logits(model)), "the model makes no noise, so this test could not fail"
    sampled, exact = logits(model.eval()), gradient(model)
    if recomputing:
        recompute_activations(model)
    refuse_noise(model)
    prepare_training(model)
    assert torch.equal(logits(model), sampled)
    assert torch.equal(gradient(model), exact)


def test_recomputed_activations_are_not_kept() -> None:
    model, calls = build("functional dropout, layer drop"), []
    recompute_activations(model)
    prepare_training(model)
    model.model.decoder.layers[0].fc1.register_forward_hook(lambda *_: calls.append(1))
    logits(model).sum().backward()
    assert len(calls) == 2, "once forward, once again in the backward pass"


class Randomised(torch.nn.Module):
    """A layer that is random in evaluation mode too."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + torch.randn_like(states)


def test_model_that_stays_random_is_refused_by_the_name_of_the_part() -> None:
    model = build("dropout modules")
    model.transformer.h[1].mlp.act = Randomised()
    with pytest.raises(ValueError, match=r"random in training: its .* because of Randomised transformer.h.1.mlp"):
        refuse_noise(model)


def test_model_whose_stack_stays_random_is_refused_by_the_name_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("dropout modules")
    block = model.transformer.h[0]
    plain = block.forward
    monkeypatch.setattr(block, "forward", lambda states, *rest, **more: plain(torch.rand_like(states), *rest, **more))
    with pytest.raises(ValueError, match=r"because of GPT2Block transformer\.h\.0\. Switch"):
        refuse_noise(model)
