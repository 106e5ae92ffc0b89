"""A small campaign without Prefect and MLflow, for models and chat templates of every family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerBase

from components.artifacts import read_json, read_table, write_bytes
from components.campaign.config import pin_config
from components.campaign.files import STAGES, round_record
from components.campaign.models import model_of_round
from components.campaign.state import Champion, State, finish_round, round_directory, write_state
from components.config import CampaignConfig
from components.dpo.batches import read_pairs
from components.runtime.launch import run_stage
from components.start.preflight import check_inputs
from flows.requests import Round, start_request

METHODS = ("collect", "validate", "train", "evaluate", "promote")
"""Methods of `Round`, in the order of the stages after the first."""
PROMPTS = [f"Is the {thing} late, and who refused it?" for thing in ("order", "kettle", "lamp", "gate", "key", "cup")]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
Tokens = dict[tuple[str, str], tuple[list[int], list[int]]]
"""(prompt id, text) -> tokens of prompt and answer."""


def llama_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """Return the shape of a tiny model for a tokenizer."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return LlamaConfig(vocab_size=len(tokenizer), **SIZES, **ids)


def family_config(
    directory: Path, tokenizer: PreTrainedTokenizerBase, *, arguments: Mapping[str, Any], rank: int
) -> CampaignConfig:
    """Return a campaign on the model in `directory / "policy"`, and write the tokenizer, a judge and prompts.

    Args:
        directory: Directory with the policy's weights.
        tokenizer: Tokenizer of policy and judge.
        arguments: Arguments of the policy's chat template.
        rank: Rank of the adapter that is trained; 0 trains all weights.
    """
    settings = llama_config(tokenizer)
    settings.num_labels = 1
    torch.manual_seed(3)
    LlamaForSequenceClassification(settings).save_pretrained(directory / "judge")
    for place in ("policy", "judge"):
        tokenizer.save_pretrained(directory / place)
    write_bytes(directory / "prompts.jsonl", "".join(f'{{"prompt": "{text}"}}\n' for text in PROMPTS).encode())
    judge = {"kind": "reward_model", "model": str(directory / "judge")}
    return CampaignConfig.model_validate(
        {
            "campaign": "family",
            "policy": {
                "model": str(directory / "policy"),
                "dtype": "float32",
                "max_response_tokens": 24,
                "chat_template_arguments": dict(arguments),
            },
            "lora": {"rank": rank},
            "prompts": {
                "train": str(directory / "prompts.jsonl"),
                "held_out": "",
                "num_held_out": 2,
                "per_round": 4,
            },
            "generation": {"samples_per_prompt": 3},
            "judge": judge,
            "evaluation_judge": judge,
            "preferences": {"pairs": "all_pairs"},
            "validation": {"min_pairs": 1, "eval_share": 0.0, "replay": 1},
            "training": {"learning_rate": 1e-2 if rank else 1e-3, "pairs_per_step": 8},
        }
    )


def play(config: CampaignConfig, directory: Path, rounds: int) -> None:
    """Run a campaign's stages; every round's model is promoted, whatever the gate says."""
    inputs = check_inputs(config)
    directory.mkdir(parents=True)
    pin_config(directory, config, accept_changes=False)
    start = run_stage("start", start_request(config, inputs.prompts_digest), round_directory(directory, 0))
    digest = model_of_round(directory, 0).digest
    write_state(directory, State(campaign=config.campaign, champion=Champion(round=0, digest=digest), target=rounds))
    for number in range(1, rounds + 1):
        requests = Round(config, directory, number, number - 1, start, inputs.seed_pairs_digest)
        manifest = run_stage(STAGES[0], requests.generate(), requests.directory)
        manifests = {STAGES[0]: manifest}
        for stage, method in zip(STAGES[1:], METHODS, strict=True):
            manifest = run_stage(stage, getattr(requests, method)(manifest), requests.directory)
            manifests[stage] = manifest
        finish_round(directory, round_record(requests.directory, number, manifests, git_sha="0" * 40))


def prompt_tokens(stage: Path) -> dict[str, list[int]]:
    """Return the tokens of the prompts that a policy read, by prompt id."""
    table = read_table(stage / "prompts.parquet")
    return dict(zip(table["prompt_id"], map(list, table["token_ids"]), strict=True))


def sampled(directory: Path, number: int) -> Tokens:
    """Return what a round sampled; of responses with one text, the first."""
    stage = round_directory(directory, number) / "generate_responses"
    prompts = prompt_tokens(stage)
    tokens: Tokens = {}
    for row in read_table(stage / "responses.parquet").to_dict("records"):
        tokens.setdefault((row["prompt_id"], row["text"]), (prompts[row["prompt_id"]], list(row["token_ids"])))
    return tokens


def check_trained_on_what_was_sampled(directory: Path, rounds: int) -> None:
    """Compare every pair's tokens with the sampled ones, also those of replayed pairs.

    The training stage itself compares the scores of saved and trained weights.
    """
    of_round = {number: sampled(directory, number) for number in range(1, rounds + 1)}
    for number in of_round:
        stage = round_directory(directory, number)
        table = read_table(stage / "validate_data" / "train.parquet")
        pairs = read_pairs(table, source="train.parquet")
        assert len(pairs) >= 8
        for pair, row in zip(pairs, table.to_dict("records"), strict=True):
            for tokens, side in ((pair.chosen, "chosen"), (pair.rejected, "rejected")):
                assert (pair.prompt, tokens) == of_round[row["origin_round"]][row["prompt_id"], row[side]]
        validation = read_json(stage / "validate_data" / "validation.json")
        assert validation["answers"] == {"sampled": 2 * len(pairs), "rendered": 0}
        assert validation["quarantined"] == validation["reasons"].get("duplicate of another pair", 0)
        assert read_json(stage / "dpo_train" / "train.json")["ln2_checked"]
