"""A merged adapter scores as the unmerged one did, after it was saved and loaded too."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from components.config import LoraConfig, SoftPromptConfig
from components.models import merging
from components.models.adapters import load_adapter, save_adapter, with_fresh_adapter
from components.models.merging import merge

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}
IDS = torch.arange(1, 20).unsqueeze(0)


def adapted(*, tied: bool, kind: str, modules: str, dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        base = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied)).to(dtype).eval()
        lora = LoraConfig.model_validate({"rank": 4, "alpha": 8, "kind": kind, "target_modules": modules})
        model = with_fresh_adapter(base, lora, SoftPromptConfig())
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(0.05 * torch.randn_like(weight))
    return model.eval()


@torch.no_grad()
def logps(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=IDS).logits
    return logits.log_softmax(dim=-1)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("modules", ["lm_head", "embed_tokens", "q_proj,embed_tokens,lm_head", "all-linear"])
def test_merge_saved_and_loaded_scores_as_the_unmerged_adapter(
    tied: bool, kind: str, modules: str, tmp_path: Path
) -> None:
    """peft's own merge adds what is meant for a tied head to the embeddings too: up to 16 of a logit here."""
    model = adapted(tied=tied, kind=kind, modules=modules)
    expected = logps(model)
    merged = merge(model)
    torch.testing.assert_close(logps(merged), expected, atol=1e-4, rtol=0)
    # A second copy of a head that is still tied would be saved as another tensor.
    once = {id(weight): (name, weight) for name, weight in reversed(merged.state_dict(keep_vars=True).items())}
    merged.save_pretrained(tmp_path, state_dict={name: weight.detach() for name, weight in once.values()})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logps(loaded), expected, atol=1e-4, rtol=0)
    shared = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert shared is (tied and modules == "all-linear")


@pytest.mark.parametrize("modules", ["lm_head", "all-linear"])
def test_merge_in_bfloat16_rounds_and_is_accepted(modules: str) -> None:
    merged = merge(adapted(tied=True, kind="lora", modules=modules, dtype=torch.bfloat16))
    embeddings, head = merged.get_input_embeddings().weight, merged.get_output_embeddings().weight
    assert embeddings.dtype == head.dtype == torch.bfloat16
    assert (embeddings is head) == (modules == "all-linear"), "a head with an adapter gets weights of its own"


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
def test_merge_that_changes_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_untie", lambda base: None)
    with pytest.raises(ValueError, match="cannot be merged into its base: merged, LlamaForCausalLM scores tokens"):
        merge(adapted(tied=True, kind="lora", modules="lm_head"))


def test_adapter_on_a_tied_head_is_saved_and_loaded_without_its_base(tmp_path: Path) -> None:
    model = adapted(tied=True, kind="lora", modules="lm_head,embed_tokens")
    trained = {name: weight for name, weight in model.state_dict(keep_vars=True).items() if weight.requires_grad}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_adapter(model, trained, tmp_path)
    base = adapted(tied=True, kind="lora", modules="q_proj").unload()
    torch.testing.assert_close(logps(load_adapter(base, tmp_path, trainable=False).eval()), logps(model))
