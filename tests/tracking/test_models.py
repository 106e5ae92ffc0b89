"""What `models:/<campaign>@champion` gives: weights that load, an adapter, and the card."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from mlflow.artifacts import download_artifacts

from components.artifacts import read_json, write_json
from components.config import CampaignConfig
from components.records import RoundRecord
from components.tracking import Tracked, tracking_uri
from components.tracking.card import card, version_description
from components.tracking.facts import RoundFacts, read_facts


def test_champion_loads_back_from_the_downloads_root_and_generates(
    runs: Path, build: Any, record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory, _ = build(1)
    trained = save_tiny_llama(directory / "round-001" / "dpo_train" / "model")
    build(2, promoted=False)
    record_again(1)
    record_again(2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(runs))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    downloaded = download_artifacts("models:/demo@champion", dst_path=str(runs / "downloaded"))
    model = AutoModelForCausalLM.from_pretrained(downloaded)
    tokenizer = AutoTokenizer.from_pretrained(downloaded)
    loaded = model.state_dict()
    assert trained.keys() == loaded.keys()
    assert all(torch.equal(trained[name], loaded[name]) for name in trained)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a b"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert output.shape[1] > prompt["input_ids"].shape[1]
    assert ModelCard.load(Path(downloaded, "README.md")).data.tags == ["dpo", "ratchet", "demo"]


def save_tiny_llama(directory: Path) -> dict[str, Any]:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<end>": 1, "<unk>": 2, "user": 3, "assistant": 4, "a": 5, "b": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}assistant"
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes))
    shutil.rmtree(directory)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return model.state_dict()


def test_adapter_round_registers_the_adapters_directory_with_our_card(
    runs: Path, store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    trained = directory / "round-001" / "dpo_train"
    (trained / "model").rename(trained / "adapter")
    (trained / "adapter" / "adapter_config.json").write_text("{}")
    (trained / "adapter" / "README.md").write_text("what peft saves")
    record_again(1)
    model_id = store.client.get_model_version_by_alias("demo", "champion").source.removeprefix("models:/")
    assert store.model_files(model_id) == {"README.md", "adapter_config.json", "config.json", "model.safetensors"}
    card = card_of(runs, model_id)
    assert card.data.library_name == "peft"
    assert "what peft saves" not in card.text
    assert (trained / "adapter" / "README.md").read_text() == "what peft saves", (
        "the published stage is never written to"
    )


def card_of(runs: Path, model_id: str) -> ModelCard:
    (path,) = (runs / "mlartifacts").rglob(f"{model_id}/artifacts/README.md")
    return ModelCard.load(path)


def test_card_tells_numbers_verdict_lineage_and_how_to_load(
    runs: Path, store: Any, record: Callable[..., Tracked]
) -> None:
    record(1)
    record(2, promoted=False)
    version = store.client.get_model_version("demo", "2")
    model_id = version.source.removeprefix("models:/")
    card = card_of(runs, model_id)
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "ratchet", "demo"],
    }, "the built-in starter is no base model on the hub, and no data set is known there"
    text = card.text
    assert "- wins against the champion of that time: **0.469** (95 % interval 0.406 to 0.531, 256 prompts)" in text
    assert "- wins against the start model: **0.812** (95 % interval 0.750 to 0.875, 256 prompts)" in text
    assert "- mean score: **1.875** (champion 1.250, start 0.875)" in text
    assert "- unfinished answers: **12.5 %** (champion 0.0 %, start 3.1 %)" in text
    assert "**Refused**" in text
    assert "- the win rate's lower bound 0.41 is not above 0.5" in text
    assert f'download_artifacts("models:/{model_id}")' in text
    assert "80 pairs of answers sampled from the start model" in text
    for key in ("policy_digest", "reference_digest", "data_digest", "git_sha"):
        assert f"- {key}: `{version.tags[key]}`" in text
    assert version.description in text


def test_card_one_judge_for_training_and_comparison_is_admitted(
    runs: Path, store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    alike = store.client.get_model_version("demo", str(record_again(1).model_version)).description
    assert "the rule `support_reply` judged both the training pairs and this comparison" in alike
    path = directory / "round-000" / "start" / "start.json"
    start = read_json(path)
    start["evaluation_judge"]["config"] |= {"kind": "reward_model", "model": "org/judge"}
    start["evaluation_judge"]["digest"] = "other"
    start["model"]["base"] = "/cache/models--org--small/snapshots/abc"
    write_json(path, start)
    build(2)
    facts = facts_of(directory, 2, model="org/small")
    text = card(facts, model_id="m-1", kind="model")
    assert "`org/judge` (reward model) judged the comparison; it did not judge the training pairs" in text
    assert "base_model: org/small\n" in text
    assert "start model: `org/small` at `main`" in text
    assert "system message" not in text
    policy = facts.config["policy"] | {"system_prompt": "Be kind.\nBe brief."}
    led = card(replace(facts, config=facts.config | {"policy": policy}), model_id="m-1", kind="model")
    assert "trained with this system message, so send it with every request:\n\n> Be kind.\n> Be brief.\n" in led


def facts_of(directory: Path, number: int, *, model: str) -> RoundFacts:
    config = CampaignConfig.model_validate({"campaign": "demo", "policy": {"model": model}}).model_dump(mode="json")
    entry = next(entry for entry in read_json(directory / "campaign.json")["rounds"] if entry["round"] == number)
    return read_facts(directory, RoundRecord.model_validate(entry), config=config)


def test_version_description_longer_than_the_registry_keeps_is_cut_and_says_so(build: Any) -> None:
    directory, built = build(1, promoted=False)
    facts = facts_of(directory, 1, model="builtin")
    long = replace(facts, record=built.model_copy(update={"reasons": ("x" * 6000,)}))
    text = version_description(long, model_id="m-1")
    assert len(text) == 5000
    assert text.endswith("the whole card is README.md among the model's files.")
    assert len(card(long, model_id="m-1", kind="model")) > 6000
