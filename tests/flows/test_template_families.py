"""Two rounds in the chat template of each family: what is trained on is what was sampled, token by token."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
)

from components.artifacts import read_json, read_table, write_bytes
from components.campaign.models import model_of_round
from components.campaign.state import round_directory
from components.config import CampaignConfig, LoraConfig
from components.dpo import stage as dpo_stage
from components.models.tokens import ChatTokenizer
from components.start import stage as start_stage
from tests.flows.family_campaign import (
    check_trained_on_what_was_sampled,
    family_config,
    llama_config,
    play,
    prompt_tokens,
)
from tests.models.template_families import FAMILIES, family_tokenizer

Make = Callable[[str], CampaignConfig]


@pytest.fixture
def make_config(tmp_path: Path) -> Make:
    """Writes a policy of random weights with a family's tokenizer, and what its campaign needs."""

    def make(name: str) -> CampaignConfig:
        tokenizer = family_tokenizer(FAMILIES[name])
        torch.manual_seed(3)
        LlamaForCausalLM(llama_config(tokenizer)).save_pretrained(tmp_path / "policy")
        return family_config(tmp_path, tokenizer, arguments=FAMILIES[name].arguments, rank=4)

    return make


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokens_that_are_trained_on_are_the_sampled_ones(name: str, make_config: Make, tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "family"
    play(make_config(name), directory, rounds=2)
    check_trained_on_what_was_sampled(directory, rounds=2)
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


def test_system_prompt_is_read_by_policy_judge_and_training(make_config: Make, tmp_path: Path) -> None:
    directory, config = tmp_path / "runs" / "family", make_config("chatml")
    told = "Never refuse a kettle."
    config = config.model_copy(update={"policy": config.policy.model_copy(update={"system_prompt": told})})
    play(config, directory, rounds=2)
    check_trained_on_what_was_sampled(directory, rounds=2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    stage = round_directory(directory, 1)
    for ids in prompt_tokens(stage / "generate_responses").values():
        assert f"<|im_start|>system\n{told}<|im_end|>" in tokenizer.decode(ids)
    for row in read_table(stage / "validate_data" / "train.parquet").to_dict("records"):
        assert json.loads(row["prompt"])[0] == {"role": "system", "content": told}, "what the judge was asked about"
        assert told in tokenizer.decode(row["prompt_ids"])
    start = round_directory(directory, 0) / "start"
    evaluated = set(read_table(stage / "evaluate" / "samples.parquet")["prompt_id"])
    held_out = read_table(start / "held_out_prompts.parquet").set_index("prompt_id")["messages"]
    assert all(told in held_out[name] for name in evaluated)
    assert evaluated


def test_answers_that_a_stop_string_ends_are_trained_on_without_an_end_token(make_config: Make, tmp_path: Path) -> None:
    config = make_config("chatml")
    config = config.model_copy(update={"generation": config.generation.model_copy(update={"stop": ("e", "s", "t")})})
    directory = tmp_path / "runs" / "family"
    play(config, directory, rounds=1)
    stage = round_directory(directory, 1)
    counts = read_json(stage / "generate_responses" / "generate.json")
    assert 0 < counts["stopped_by_text"] <= counts["responses"]
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(tmp_path / "policy"))
    texts = {
        row["text"]: row for row in read_table(stage / "generate_responses" / "responses.parquet").to_dict("records")
    }
    trained = 0
    for row in read_table(stage / "validate_data" / "train.parquet").to_dict("records"):
        for side in ("chosen", "rejected"):
            tokens = list(row[f"{side}_ids"])
            assert row[side] in texts, "what was judged was sampled"
            words = tokens[:-1] if tokens[-1] in chat.stop_ids else tokens
            assert chat.text(words) == row[side], "and is what is trained on"
            trained += tokens[-1] not in chat.stop_ids
    assert trained
    evaluation = read_json(stage / "evaluate" / "evaluation.json")
    assert 0 <= evaluation["unfinished_share"]["start"] < 1
    empty = [row["text"] for row in texts.values() if not len(row["token_ids"])]
    reasons = read_json(stage / "validate_data" / "validation.json")["reasons"]
    assert set(reasons) <= {"an answer has no tokens", "duplicate of another pair", "chosen equals rejected"} | (
        {"a response is empty"} if empty else set()
    )


def test_rounds_hold_the_shares_of_their_prompts_tags_and_pairs_have_them(make_config: Make, tmp_path: Path) -> None:
    config = make_config("chatml")
    rows = [{"prompt": f"Is {name} late?", "kind": "math" if name < "e" else "law"} for name in "abcdefghijkl"]
    rows.append({"prompt": "Is it late?"})
    write_bytes(tmp_path / "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    prompts = config.prompts.model_dump() | {"tag_column": "kind", "tag_shares": {"math": 0.5}, "num_held_out": 1}
    sections = config.model_dump() | {"prompts": prompts}
    directory = tmp_path / "runs" / "family"
    play(CampaignConfig.model_validate(sections), directory, rounds=2)
    tag_of = {json.dumps([{"role": "user", "content": row["prompt"]}]): row.get("kind") for row in rows}
    drawn_math: list[str] = []
    for number in (1, 2):
        stage = round_directory(directory, number)
        drawn = read_table(stage / "generate_responses" / "prompts.parquet")
        math = [text for text in drawn["messages"] if tag_of[text] == "math"]
        assert (len(drawn), len(math)) == (4, 2)
        assert read_json(stage / "generate_responses" / "generate.json")["tags"]["math"] == 2
        drawn_math += math
        pairs = read_table(stage / "collect_preferences" / "preferences.parquet")
        assert len(pairs)
        for row in pairs.to_dict("records"):
            assert row["tag"] == (tag_of[row["prompt"]] or "helpfulness")
    assert len(set(drawn_math)) >= 3, "without replacement until the tag's prompts are used up"
