"""Two rounds in the chat template of each family: what is trained on is what was sampled, token by token."""

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from components.artifacts import read_json, read_table, write_bytes
from components.campaign.config import pin_config
from components.campaign.files import round_record
from components.campaign.models import model_of_round
from components.campaign.state import Champion, State, finish_round, round_directory, write_state
from components.config import CampaignConfig, LoraConfig
from components.dpo import stage as dpo_stage
from components.dpo.batches import read_pairs
from components.records import Manifest
from components.runtime.launch import run_stage
from components.start import stage as start_stage
from components.start.preflight import check_inputs
from flows.requests import Round, start_request
from tests.models.template_families import FAMILIES, family_tokenizer

STAGES = ("collect", "validate", "train", "evaluate", "promote")
NAMES = {
    "collect": "collect_preferences",
    "validate": "validate_data",
    "train": "dpo_train",
    "evaluate": "evaluate",
    "promote": "promote",
}
PROMPTS = [f"Is the {thing} late, and who refused it?" for thing in ("order", "kettle", "lamp", "gate", "key", "cup")]
Make = Callable[[str], CampaignConfig]


@pytest.fixture
def make_config(tmp_path: Path) -> Make:
    """Writes a policy and a reward model of random weights with a family's tokenizer."""

    def make(name: str) -> CampaignConfig:
        tokenizer = family_tokenizer(FAMILIES[name])
        torch.manual_seed(3)
        sizes = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        LlamaForCausalLM(sizes).save_pretrained(tmp_path / "policy")
        sizes.num_labels = 1
        LlamaForSequenceClassification(sizes).save_pretrained(tmp_path / "judge")
        for place in ("policy", "judge"):
            tokenizer.save_pretrained(tmp_path / place)
        lines = "".join(f'{{"prompt": "{text}"}}\n' for text in PROMPTS)
        write_bytes(tmp_path / "prompts.jsonl", lines.encode())
        judge = {"kind": "reward_model", "model": str(tmp_path / "judge")}
        return CampaignConfig.model_validate(
            {
                "campaign": "family",
                "policy": {
                    "model": str(tmp_path / "policy"),
                    "dtype": "float32",
                    "max_response_tokens": 24,
                    "chat_template_arguments": dict(FAMILIES[name].arguments),
                },
                "lora": {"rank": 4},
                "prompts": {
                    "train": str(tmp_path / "prompts.jsonl"),
                    "held_out": "",
                    "num_held_out": 2,
                    "per_round": 4,
                },
                "generation": {"samples_per_prompt": 3},
                "judge": judge,
                "evaluation_judge": judge,
                "preferences": {"pairs": "all_pairs"},
                "validation": {"min_pairs": 1, "eval_share": 0.0, "replay": 1},
                "training": {"learning_rate": 1e-2, "pairs_per_step": 8},
            }
        )

    return make


def play(config: CampaignConfig, directory: Path, rounds: int) -> None:
    """Run a campaign's stages without Prefect and MLflow; every round's model is promoted."""
    inputs = check_inputs(config)
    directory.mkdir(parents=True)
    pin_config(directory, config, accept_changes=False)
    start = run_stage("start", start_request(config, inputs.prompts_digest), round_directory(directory, 0))
    digest = model_of_round(directory, 0).digest
    write_state(directory, State(campaign=config.campaign, champion=Champion(round=0, digest=digest), target=rounds))
    for number in range(1, rounds + 1):
        requests = Round(config, directory, number, number - 1, start, inputs.seed_pairs_digest)
        manifest = run_stage("generate_responses", requests.generate(), requests.directory)
        manifests: dict[str, Manifest] = {"generate_responses": manifest}
        for stage in STAGES:
            manifest = run_stage(NAMES[stage], getattr(requests, stage)(manifest), requests.directory)
            manifests[NAMES[stage]] = manifest
        finish_round(directory, round_record(requests.directory, number, manifests))


def prompt_tokens(stage: Path) -> dict[str, list[int]]:
    """Return the tokens of the prompts that a policy read, by prompt id."""
    table = read_table(stage / "prompts.parquet")
    return dict(zip(table["prompt_id"], map(list, table["token_ids"]), strict=True))


def sampled(directory: Path, number: int) -> dict[tuple[str, str], tuple[list[int], list[int]]]:
    """Return prompt and answer tokens of a round's responses, the first of each text, by prompt id and text."""
    stage = round_directory(directory, number) / "generate_responses"
    prompts = prompt_tokens(stage)
    tokens: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for row in read_table(stage / "responses.parquet").to_dict("records"):
        tokens.setdefault((row["prompt_id"], row["text"]), (prompts[row["prompt_id"]], list(row["token_ids"])))
    return tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokens_that_are_trained_on_are_the_sampled_ones(name: str, make_config: Make, tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "family"
    play(make_config(name), directory, rounds=2)
    rounds = {number: sampled(directory, number) for number in (1, 2)}
    for number in rounds:
        stage = round_directory(directory, number)
        table = read_table(stage / "validate_data" / "train.parquet")
        pairs = read_pairs(table, source="train.parquet")
        assert len(pairs) >= 8
        for pair, row in zip(pairs, table.to_dict("records"), strict=True):
            for tokens, side in ((pair.chosen, "chosen"), (pair.rejected, "rejected")):
                assert (pair.prompt, tokens) == rounds[row["origin_round"]][row["prompt_id"], row[side]]
        validation = read_json(stage / "validate_data" / "validation.json")
        assert validation["answers"] == {"sampled": 2 * len(pairs), "rendered": 0}
        assert validation["quarantined"] == validation["reasons"].get("duplicate of another pair", 0)
        trained = read_json(stage / "dpo_train" / "train.json")
        assert trained["ln2_checked"]
    start = read_json(round_directory(directory, 0) / "start" / "start.json")
    assert set(start["stop_tokens"]) == {FAMILIES[name].eos, FAMILIES[name].end_of_turn}
    assert (start["template_date"] is not None) == (name == "llama-3.2")
    assert _follow_the_policy(directory)


def _follow_the_policy(directory: Path) -> bool:
    """Whether the first round's responses are about as likely as samples are, by plain transformers row by row.

    The log-probability of a sampled token has the policy's negative entropy as its mean: over all tokens the two sums
    differ by sampling noise alone.
    """
    model = AutoModelForCausalLM.from_pretrained(model_of_round(directory, 0).base).eval()
    difference, variance = 0.0, 0.0
    stage = round_directory(directory, 1) / "generate_responses"
    prompts = prompt_tokens(stage)
    for row in read_table(stage / "responses.parquet").to_dict("records"):
        prompt, answer = prompts[row["prompt_id"]], list(row["token_ids"])
        with torch.no_grad():
            logps = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
        mean = (logps.exp() * logps).sum(-1)
        difference += float((logps[range(len(answer)), answer] - mean).sum())
        variance += float(((logps.exp() * logps**2).sum(-1) - mean**2).sum())
    return abs(difference) < 4 * variance**0.5


def test_a_campaign_writes_the_date_of_its_first_day_in_every_prompt(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that is resumed after midnight, or a later round, would read other prompts than its reference."""

    class FirstDay(datetime.date):
        @classmethod
        def today(cls) -> "FirstDay":
            return cls(2024, 7, 26)

    directory = tmp_path / "runs" / "family"
    monkeypatch.setattr(start_stage, "date", FirstDay)
    play(make_config("llama-3.2"), directory, rounds=1)
    tokenizer = AutoTokenizer.from_pretrained(model_of_round(directory, 0).base)
    for tokens in prompt_tokens(round_directory(directory, 1) / "generate_responses").values():
        assert "Today Date: 26 Jul 2024" in tokenizer.decode(tokens)


def test_training_and_its_cache_read_the_pairs_tokens_and_render_nothing(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "runs" / "family"
    monkeypatch.setattr(dpo_stage, "encode", None)
    play(make_config("own"), directory, rounds=1)
    assert read_json(round_directory(directory, 1) / "dpo_train" / "train.json")["ln2_checked"]


def test_a_published_model_stops_where_its_answers_were_sampled_to_stop(make_config: Make, tmp_path: Path) -> None:
    """Served elsewhere, it would run on behind the end of the turn: its config names another token."""
    config = make_config("phi-3.5")
    directory = tmp_path / "runs" / "family"
    play(config.model_copy(update={"lora": LoraConfig()}), directory, rounds=1)
    published = Path(model_of_round(directory, 1).base)
    tokenizer = AutoTokenizer.from_pretrained(published)
    stops = GenerationConfig.from_pretrained(published).eos_token_id
    assert set(tokenizer.convert_ids_to_tokens(stops)) == {"<|end|>", "<|endoftext|>"}
