"""The starter: an ordinary model directory whose tokenizer is exact, built the same every time and only once."""

import hashlib
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from components.artifacts import MANIFEST
from components.builtin import starter
from components.builtin.starter import build_starter, build_tokenizer, reply_loss, starter_model, train_starter
from components.builtin.world import corpus, held_out_prompts, train_prompts


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("built") / "model"
    build_starter(directory, steps=5)
    return directory


def hashes(directory: Path) -> dict[str, str]:
    files = [path for path in directory.iterdir() if path.name != MANIFEST]  # it has the seconds of the training
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def texts() -> list[str]:
    prompts = [messages[0]["content"] for messages in [*train_prompts()[::8], *held_out_prompts()[::4]]]
    return [*prompts, *[reply for _, reply in corpus()[::16]]]


def test_tokenizer_gives_back_every_text_and_knows_every_word(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in texts():
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text
        assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids


def test_tokenizer_splits_order_numbers_digit_by_digit(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("order #4712.") == [" order", " #", "4", "7", "1", "2", "."]


def test_tokenizer_is_stable_on_words_it_does_not_know(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("My zeppelin\narrived, at 9:30 \u2603")["input_ids"]
    assert tokenizer.unk_token_id in ids
    text = tokenizer.decode(ids, skip_special_tokens=True)
    again = tokenizer(text)["input_ids"]
    assert tokenizer.decode(again, skip_special_tokens=True) == text


def test_chat_template_makes_the_prompt_a_prefix_of_the_conversation(tokenizer: PreTrainedTokenizerFast) -> None:
    for messages, reply in corpus()[::64]:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": reply}], return_dict=False)
        assert whole[: len(prompt)] == prompt
        assert whole[len(prompt) :] == [*tokenizer(reply)["input_ids"], tokenizer.eos_token_id]


def test_chat_template_takes_system_and_earlier_turns_and_refuses_other_roles(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    turns = [{"role": role, "content": "I can help"} for role in ("system", "user", "assistant", "user")]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert (
        text == "<|user|>I can help<|end|>" * 2 + "<|assistant|>I can help<|end|><|user|>I can help<|end|><|assistant|>"
    )
    with pytest.raises(Exception, match="unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}])


def test_reply_loss_is_the_mean_over_reply_tokens_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    model = train_starter(tokenizer, steps=1)
    prompts, replies = [[2, 7, 4, 3], [2, 8, 9, 10, 4, 3]], [[11, 12, 13, 4], [14, 4]]
    width = max(len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True))
    rows = [prompt + reply for prompt, reply in zip(prompts, replies, strict=True)]
    expected = []
    for prompt, row in zip(prompts, rows, strict=True):
        logps = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
        expected += [-logps[place - 1, row[place]].item() for place in range(len(prompt), len(row))]
    padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    loss = reply_loss(model, padded, torch.tensor([4, 6]), torch.tensor([8, 8]))
    assert len(expected) == 6
    assert loss.item() == pytest.approx(sum(expected) / 6, abs=1e-5)
    poisoned = reply_loss(
        model, torch.cat([padded, torch.full((2, 3), 5)], dim=1), torch.tensor([4, 6]), torch.tensor([8, 8])
    )
    assert poisoned.item() == pytest.approx(loss.item(), abs=1e-6)


def test_starter_loads_with_the_auto_classes_and_answers(built: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(built), AutoModelForCausalLM.from_pretrained(built)
    assert 0.8e6 < model.num_parameters() < 1.2e6
    assert tokenizer.chat_template == starter.CHAT_TEMPLATE
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<pad>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert sorted(path.name for path in built.glob("*.safetensors")) == ["model.safetensors"]
    prompt = tokenizer.apply_chat_template(train_prompts()[0], add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=8)
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_starter_built_twice_has_the_same_bytes(built: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    build_starter(tmp_path / "model", steps=5)
    assert hashes(tmp_path / "model") == hashes(built)
    build_starter(tmp_path / "longer", steps=6)
    assert hashes(tmp_path / "longer")["model.safetensors"] != hashes(built)["model.safetensors"]


def test_starter_built_with_more_threads_has_the_same_bytes_and_leaves_the_threads_alone(
    built: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        build_starter(tmp_path / "model", steps=5)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert hashes(tmp_path / "model") == hashes(built)


def test_starter_training_leaves_the_random_state_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train_starter(tokenizer, steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_starter_learns_from_drills_and_corpus(tokenizer: PreTrainedTokenizerFast) -> None:
    messages, reply = corpus()[0]
    prompt, answer = starter._row(tokenizer, messages, reply)
    row = (torch.tensor([prompt + answer]), torch.tensor([len(prompt)]), torch.tensor([len(prompt) + len(answer)]))
    before, after = (reply_loss(train_starter(tokenizer, steps=steps), *row).item() for steps in (1, 24))
    assert after < 0.8 * before


def test_starter_model_is_trained_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "STEPS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = starter_model()
    assert first.parent == tmp_path / "ratchet"

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(starter, "train_starter", fail)
    assert starter_model() == first
    build_starter(first, steps=2)
    monkeypatch.setattr(starter, "STEPS", 3)
    with pytest.raises(AssertionError, match="trained again"):
        starter_model()


def test_starter_model_of_another_world_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(starter, "build_starter", lambda directory, *, steps: made.append(directory))
    starter_model(tmp_path)
    starter_model(tmp_path)
    monkeypatch.setattr(starter, "world_digest", lambda: "another world")
    starter_model(tmp_path)
    assert made[0] == made[1] != made[2]


def test_starter_that_failed_half_way_leaves_nothing_to_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "STEPS", 1)
    with monkeypatch.context() as patched:
        patched.setattr(
            "transformers.LlamaForCausalLM.save_pretrained",
            lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")),
        )
        with pytest.raises(OSError, match="disk full"):
            starter_model(tmp_path)
    assert not list(tmp_path.glob("starter-*"))
    assert (starter_model(tmp_path) / "model.safetensors").is_file()
    assert not list(tmp_path.glob(".*.tmp"))


def test_starter_model_that_a_power_cut_damaged_is_trained_again_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was renamed into place before its bytes were on the disk, and then taken for ever as it was."""
    monkeypatch.setattr(starter, "STEPS", 2)
    directory = starter_model(tmp_path)
    whole = hashes(directory)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4096] + bytes(4096))
    assert starter_model(tmp_path) == directory
    assert hashes(directory) == whole


def test_starter_model_of_an_earlier_version_has_no_hashes_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Campaigns name its directory as the base of their adapters."""
    monkeypatch.setattr(starter, "STEPS", 1)
    directory = starter_model(tmp_path)
    (directory / MANIFEST).unlink()
    monkeypatch.setattr(starter, "train_starter", lambda *_, **__: pytest.fail("trained again"))
    assert starter_model(tmp_path) == directory


def test_starter_built_by_two_at_once_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def counting(*arguments: object, **options: int) -> object:
        trained.append(1)
        return train_starter(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(starter, "train_starter", counting)
    builders = [
        threading.Thread(target=build_starter, args=(tmp_path / "model",), kwargs={"steps": 2}) for _ in range(3)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(trained) == 1
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() > 0
