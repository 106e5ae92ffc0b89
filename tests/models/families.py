"""Try every family of causal language models that we claim, with tiny random weights, and write docs/models.md.

`python -m tests.models.families` tries all of them (a few minutes); tests try some, and compare them with the page.
"""

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from components.generation.paths import sampling_path
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.models.causality import check_causal
from components.models.loading import load_policy
from components.records import ModelRef
from components.scoring.batch import Batch
from components.scoring.response_logps import response_logps, scoring_path, token_logps
from tests.flows.family_campaign import check_trained_on_what_was_sampled, family_config, play
from tests.models.template_families import FAMILIES as TEMPLATES
from tests.models.template_families import family_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
VOCABULARY = 336
NOISE = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
LLAMA: dict[str, Any] = NOISE | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FOUR = LLAMA | {"num_hidden_layers": 4, "head_dim": 8, "sliding_window": 16}
LAYERS = ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
DEEPSEEK = LLAMA | MLA | EXPERTS | {"num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1}
DEEPSEEK |= {"n_shared_experts": 1, "first_k_dense_replace": 1}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.0, 5.0],
    "original_max_position_embeddings": 16,
}
GPT = NOISE | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160}
SHARED_KV = FOUR | {
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "layer_types": LAYERS * 2,
}
SHARED_KV |= {"num_kv_shared_layers": 2}
FALCON = NOISE | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MAMBA = NOISE | {"hidden_size": 16, "state_size": 8, "num_hidden_layers": 2}
MAMBA_2 = MAMBA | {"num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 8}
SSM = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 1 to 3": ("llama", LLAMA),
    "Llama with dynamic RoPE": (
        "llama",
        LLAMA
        | {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        },
    ),
    "Mistral": ("mistral", LLAMA | {"sliding_window": 16}),
    "Mixtral": ("mixtral", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}),
    "Ministral": ("ministral", FOUR | {"layer_types": LAYERS * 2}),
    "Qwen2, Qwen2.5": ("qwen2", LLAMA | {"tie_word_embeddings": True}),
    "Qwen2 MoE": (
        "qwen2_moe",
        LLAMA | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1},
    ),
    "Qwen3": ("qwen3", LLAMA | {"head_dim": 12}),
    "Qwen3 MoE": ("qwen3_moe", LLAMA | EXPERTS | {"num_experts": 4, "head_dim": 8}),
    "Qwen3-Next": (
        "qwen3_next",
        LLAMA
        | EXPERTS
        | {"num_experts": 4, "head_dim": 8, "shared_expert_intermediate_size": 16, "linear_num_value_heads": 4}
        | {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
        | {"layer_types": ["linear_attention", "full_attention"]},
    ),
    "Gemma": ("gemma", LLAMA | {"head_dim": 8}),
    "Gemma 2": ("gemma2", FOUR | {"query_pre_attn_scalar": 8}),
    "Gemma 3": ("gemma3_text", FOUR | {"layer_types": LAYERS * 2}),
    "Gemma 3n": (
        "gemma3n_text",
        SHARED_KV | {"altup_num_inputs": 2, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4},
    ),
    "Gemma 4": ("gemma4_text", SHARED_KV | {"global_head_dim": 8}),
    "Phi, Phi-2": ("phi", LLAMA | {"partial_rotary_factor": 0.5}),
    "Phi-3, Phi-4": ("phi3", LLAMA),
    "Phi-3 with 128k (longrope)": (
        "phi3",
        LLAMA | {"original_max_position_embeddings": 16, "rope_parameters": LONG_ROPE},
    ),
    "Falcon": ("falcon", FALCON),
    "Falcon with ALiBi": ("falcon", FALCON | {"alibi": True}),
    "Falcon 40B": ("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "BLOOM": ("bloom", NOISE | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "OPT": (
        "opt",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"word_embed_proj_dim": 32, "init_std": 0.2, "max_position_embeddings": 160},
    ),
    "GPT-2": ("gpt2", GPT),
    "GPT-J": ("gptj", GPT | {"rotary_dim": 4}),
    "GPT-NeoX, Pythia": ("gpt_neox", LLAMA),
    "GPTBigCode": ("gpt_bigcode", GPT),
    "MPT": ("mpt", NOISE | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 160}),
    "StableLM": ("stablelm", LLAMA),
    "StarCoder2": ("starcoder2", LLAMA | {"sliding_window": None}),
    "OLMo": ("olmo", LLAMA),
    "OLMo 2": ("olmo2", LLAMA),
    "OLMo 3": ("olmo3", FOUR | {"layer_types": LAYERS * 2}),
    "OLMoE": ("olmoe", LLAMA | {"num_experts": 4, "num_experts_per_tok": 2}),
    "Granite": ("granite", LLAMA | {"logits_scaling": 4.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5}),
    "Granite MoE": ("granitemoe", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Command R (Cohere)": ("cohere", LLAMA),
    "Command R7B (Cohere 2)": ("cohere2", FOUR | {"layer_types": LAYERS * 2}),
    "SmolLM3": ("smollm3", LLAMA),
    "GLM-4": ("glm4", LLAMA | {"head_dim": 8}),
    "GLM-4.5": ("glm4_moe", DEEPSEEK | {"num_key_value_heads": 2, "head_dim": 8}),
    "EXAONE 4": ("exaone4", FOUR | {"layer_types": LAYERS * 2}),
    "DeepSeek V2": ("deepseek_v2", DEEPSEEK | {"topk_method": "greedy"}),
    "DeepSeek V3, R1": ("deepseek_v3", DEEPSEEK),
    "gpt-oss": ("gpt_oss", FOUR | {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": LAYERS * 2}),
    "Seed-OSS": ("seed_oss", LLAMA | {"head_dim": 8}),
    "Mamba": ("mamba", MAMBA),
    "Mamba-2": ("mamba2", MAMBA_2),
    "Falcon Mamba": ("falcon_mamba", MAMBA),
    "RWKV": (
        "rwkv",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}
        | {"context_length": 64, "intermediate_size": 48},
    ),
    "Jamba": (
        "jamba",
        LLAMA
        | SSM
        | {"mamba_dt_rank": 4, "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2}
        | {"attn_layer_offset": 1, "use_mamba_kernels": False},
    ),
    "Bamba": (
        "bamba",
        LLAMA
        | SSM
        | {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "attn_layer_indices": [1]}
        | {"mamba_chunk_size": 8},
    ),
    "RecurrentGemma": (
        "recurrent_gemma",
        {key: value for key, value in LLAMA.items() if key != "initializer_range"}
        | {"lru_width": 32, "attention_window_size": 16, "num_hidden_layers": 3, "w_init_variance_scale": 1.0},
    ),
    "LFM2": ("lfm2", LLAMA | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "BERT as a decoder": ("bert", {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}),
}
"""By the name that people know, transformers' model type and a tiny shape."""


class Row(NamedTuple):
    """A line of the table."""

    family: str
    model_type: str
    verdict: str
    sampled: str
    scored: str
    why: str


def tried(family: str, directory: Path) -> Row:
    """Try a family: sample, score, train a step, save and load again.

    Raises:
        AssertionError: Something differs from the plain forward of transformers, one row at a time.
    """
    model_type, shape = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **copy.deepcopy(shape)))
        if model_type in ("rwkv", "recurrent_gemma"):
            # Their own first weights hardly depend on what stands before.
            for weight in model.parameters():
                weight.data += 0.2 * torch.randn_like(weight)
    model.save_pretrained(directory)
    try:
        policy = loaded(directory)
        check_causal(policy)
    except ValueError as error:
        return Row(family, model_type, "refused", "", "", str(error).replace(str(directory), "it"))
    longest = scored_as_alone(policy, directory)
    sampled_as_alone(policy, directory)
    trained_as_saved(policy, directory)
    two_rounds(directory)
    sampling, scoring = sampling_path(policy), scoring_path(policy, longest)
    is_fast = sampling.cache is not None and scoring.packed
    reasons = dict.fromkeys(reason for reason in (sampling.reason, scoring.reason) if reason)
    rows = "packed" if scoring.packed else "alone" if "scored alone" in str(scoring.reason) else "padded"
    return Row(
        family, model_type, "exact and fast" if is_fast else "exact and slower", sampling.way, rows, "; ".join(reasons)
    )


def loaded(directory: Path) -> Any:
    ref = ModelRef(round=0, base=str(directory), base_digest="", digest="")
    return load_policy(ref, dtype=torch.float32, device=torch.device("cpu"))


def plain(directory: Path) -> Callable[[list[int]], torch.Tensor]:
    """Return transformers' own logits of a row, (tokens, vocabulary); a dynamic RoPE must not remember other rows."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory).eval()
    start = copy.deepcopy(model) if "dynamic" in str(getattr(model.config, "rope_parameters", "")) else None

    @torch.no_grad()
    def logits(ids: list[int]) -> torch.Tensor:
        own = model if start is None else copy.deepcopy(start)
        result: torch.Tensor = own(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        return result

    return logits


def rows(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(8, VOCABULARY, size=length).tolist() for length in lengths]


def scored_as_alone(policy: Any, directory: Path) -> int:
    """Compare scores with the plain forward; return the tokens of the longest row."""
    prompts, responses = rows(1, (3, 9, 9, 14, 20, 1)), rows(2, (5, 1, 8, 7, 4, 6))
    prompts[2] = prompts[1]
    found, logits = response_logps(policy, 0, prompts, responses), plain(directory)
    for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        logps = logits(prompt + response).log_softmax(dim=-1)[len(prompt) - 1 : -1]
        expected = float(logps.gather(1, torch.tensor(response).unsqueeze(1)).sum())
        assert abs(float(found[place]) - expected) < 2e-3, f"scored {float(found[place])} instead of {expected}"
    return max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))


def sampled_as_alone(policy: Any, directory: Path) -> None:
    """Draw every token again from the plain forward on what stands before it."""
    prompts = rows(3, (12, 4, 4, 19, 1))
    law = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=6, stop_ids=frozenset(range(3, 12)))
    seeds = [[10 * place, 10 * place + 1] for place in range(len(prompts))]
    answers = sample(policy, prompts, seeds=seeds, law=law, pad_id=0, batch_size=0, on_batch=lambda _: None)
    logits = plain(directory)
    for answer in answers:
        ids = list(prompts[answer.prompt_index])
        seed = seeds[answer.prompt_index][answer.sample_index]
        for token, uniform in zip(answer.token_ids, _uniforms(seed, law.max_new_tokens), strict=False):
            edges = np.cumsum(torch.softmax(logits(ids)[-1].double(), dim=-1).numpy())
            expected = int(np.searchsorted(edges, uniform, side="right"))
            assert token == expected or np.abs(edges - uniform).min() < 1e-4, f"sampled {token} instead of {expected}"
            ids.append(token)


def _uniforms(seed: int, count: int) -> Iterator[float]:
    yield from np.random.Generator(np.random.Philox(key=seed)).random(count)


def trained_as_saved(policy: Any, directory: Path) -> None:
    """Make a step, save, load, and compare scores."""
    prompts, responses = rows(4, (5, 5, 9)), rows(5, (3, 6, 4))
    batch = Batch(prompts, responses, 0, torch.device("cpu"))
    first = token_logps(policy, batch)
    (first.sum(dim=1) @ torch.tensor([1.0, -1.0, 0.5])).backward()
    torch.optim.SGD(policy.parameters(), lr=1e-2).step()
    trained = response_logps(policy, 0, prompts, responses)
    assert (trained - first.sum(dim=1).detach()).abs().max() > 1e-4, "the step changed nothing"
    policy.save_pretrained(directory / "trained")
    again = response_logps(loaded(directory / "trained"), 0, prompts, responses)
    assert (again - trained).abs().max() < 1e-3, "the saved weights score differently"


def two_rounds(directory: Path) -> None:
    """Run a campaign of two rounds, and compare what was trained on with what was sampled."""
    tokenizer = family_tokenizer(TEMPLATES["own"])
    assert len(tokenizer) <= VOCABULARY
    shutil.copytree(directory, directory / "campaign" / "policy", ignore=shutil.ignore_patterns("campaign", "trained"))
    config = family_config(directory / "campaign", tokenizer, arguments={}, rank=0)
    play(config, directory / "campaign" / "runs", rounds=2)
    check_trained_on_what_was_sampled(directory / "campaign" / "runs", rounds=2)


def table(results: Sequence[Row]) -> str:
    """Return the families as a Markdown table between its two marks."""
    head = "| family | `model_type` | verdict | sampled by | scored in | why not faster |"
    lines = [head, "|" + " --- |" * 6]
    for row in results:
        cells = (row.family, f"`{row.model_type}`", row.verdict, row.sampled, row.scored, row.why.replace("|", "/"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([BEGIN, *lines, END])


def in_page(page: str) -> str:
    """Return the part of the page that this module writes."""
    return page[page.index(BEGIN) : page.index(END) + len(END)]


def main() -> None:
    """Try all families and write their table into the page."""
    results = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as directory:
            results.append(tried(family, Path(directory)))
        print(*results[-1], sep=" | ", flush=True)
    page = PAGE.read_text()
    PAGE.write_text(page.replace(in_page(page), table(results)))


if __name__ == "__main__":
    main()
