"""One round as one plain script of transformers and TRL.

Generate, judge, pair, train, save, generate with both policies, judge.

    python trl_round.py SETTINGS.json

The settings are the driver's; the answer, with the seconds of each stage, is written beside the trained model. One
model is loaded once and stays in memory from stage to stage, as in a script that somebody writes for one machine.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer

from components.runtime.machine import keep_freed_memory

Message = dict[str, str]


def read_lines(path: str) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def batches(items: list[Any], size: int, *, longest_first: bool) -> list[list[int]]:
    """Return the places of the items, batch by batch."""
    order = (
        sorted(range(len(items)), key=lambda index: -len(items[index])) if longest_first else list(range(len(items)))
    )
    return [order[start : start + size] for start in range(0, len(order), size)]


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, prompts: list[str], samples: int, settings: dict[str, Any]) -> list[list[str]]:
    """Return `samples` responses to each prompt, at temperature 1 without any cut of the distribution."""
    model.eval()
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in prompts
    ]
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    answers: list[list[str]] = [[] for _ in prompts]
    for members in batches(encoded, settings["generation_batch"], longest_first=settings["by_length"]):
        batch = tokenizer.pad(
            {"input_ids": [encoded[index] for index in members]}, padding_side="left", return_tensors="pt"
        )
        ids = model.generate(
            **batch.to(model.device),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=samples,
            max_new_tokens=settings["max_new_tokens"],
        )
        said = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for place, index in enumerate(members):
            answers[index] = said[place * samples : (place + 1) * samples]
    return answers


@torch.inference_mode()
def judge(
    model: Any, tokenizer: Any, prompts: list[str], answers: list[list[str]], settings: dict[str, Any]
) -> list[list[float]]:
    """Return the reward model's score of each response."""
    conversations = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        for text, several in zip(prompts, answers, strict=True)
        for answer in several
    ]
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in conversations]
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    scores = [0.0] * len(encoded)
    for members in batches(encoded, settings["judge_batch"], longest_first=settings["by_length"]):
        batch = tokenizer.pad(
            {"input_ids": [encoded[index] for index in members]}, padding_side="right", return_tensors="pt"
        )
        for index, score in zip(members, model(**batch.to(model.device)).logits[:, 0].tolist(), strict=True):
            scores[index] = score
    remaining = iter(scores)
    return [[next(remaining) for _ in several] for several in answers]


def best_and_worst(
    prompts: list[str], answers: list[list[str]], scores: list[list[float]]
) -> list[dict[str, list[Message]]]:
    """Return one pair per prompt, as TRL's conversational rows."""
    pairs = []
    for text, several, own in zip(prompts, answers, scores, strict=True):
        best, worst = own.index(max(own)), own.index(min(own))
        chosen, rejected = ([{"role": "assistant", "content": several[index]}] for index in (best, worst))
        pairs.append({"prompt": [{"role": "user", "content": text}], "chosen": chosen, "rejected": rejected})
    return pairs


def train(model: Any, tokenizer: Any, pairs: list[dict[str, list[Message]]], settings: dict[str, Any]) -> Any:
    """Train one epoch of DPO and return the trainer."""
    micro = settings["micro_batch"]
    chosen: dict[str, Any] = {
        "output_dir": settings["out"],
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings["pairs_per_step"] // micro,
        "num_train_epochs": 1,
        "learning_rate": settings["learning_rate"],
        "warmup_steps": 0.1,  # a share, when below 1
        "beta": 0.1,
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "report_to": [],
        "seed": settings["seed"],
    }
    if settings["tuned"]:
        chosen |= {"gradient_checkpointing": False, "precompute_ref_log_probs": settings["precompute"]}
        chosen |= {
            "train_sampling_strategy": "group_by_length",
            "length_column_name": "length",
            "remove_unused_columns": False,
        }
    trainer: Any = DPOTrainer(
        model=model, args=DPOConfig(**chosen), train_dataset=Dataset.from_list(pairs), processing_class=tokenizer
    )
    if settings["tuned"]:
        # The trainer drops columns that it does not know, and its sampler then finds no lengths.
        rows = trainer.train_dataset
        names = [name for name in rows.column_names if name.endswith("_ids")]
        trainer.train_dataset = rows.add_column("length", [sum(len(row[name]) for name in names) for row in rows])
    trainer.train()
    trainer.save_model(settings["out"])
    return trainer


def win_rate(new: list[list[float]], old: list[list[float]]) -> float:
    """Return the share of prompts whose response by the new policy scores higher; a tie counts half."""
    won = [(ours > theirs) + 0.5 * (ours == theirs) for (ours,), (theirs,) in zip(new, old, strict=True)]
    return sum(won) / len(won)


def main(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the round and return the seconds of its stages and how much work they had."""
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def ended(stage: str) -> None:
        nonlocal began
        seconds[stage] = time.perf_counter() - began
        began = time.perf_counter()

    keep_freed_memory()
    set_seed(settings["seed"])
    prompts = [row["prompt"] for row in read_lines(settings["prompts"])][: settings["num_prompts"]]
    held_out = [row["prompt"] for row in read_lines(settings["held_out"])][: settings["num_held_out"]]
    tokenizer: Any = AutoTokenizer.from_pretrained(settings["policy"])
    policy = AutoModelForCausalLM.from_pretrained(settings["policy"], dtype=torch.float32)
    answers = generate(policy, tokenizer, prompts, settings["samples"], settings)
    ended("generate_responses")

    reward_tokenizer = AutoTokenizer.from_pretrained(settings["reward_model"])
    reward_model = AutoModelForSequenceClassification.from_pretrained(
        settings["reward_model"], dtype=torch.float32
    ).eval()
    scores = judge(reward_model, reward_tokenizer, prompts, answers, settings)
    made = best_and_worst(prompts, answers, scores)
    ended("collect_preferences")

    pairs = read_lines(settings["pairs"])[: len(made)]
    trainer = train(policy, tokenizer, pairs, settings)
    ended("dpo_train")

    old = AutoModelForCausalLM.from_pretrained(settings["policy"], dtype=torch.float32)
    compared = [
        judge(reward_model, reward_tokenizer, held_out, generate(model, tokenizer, held_out, 1, settings), settings)
        for model in (trainer.model, old)
    ]
    rate = win_rate(*compared)
    ended("evaluate")
    words = sum(len(answer.split()) for several in answers for answer in several)
    return {"stages": seconds, "sampled_words": words, "pairs": len(pairs), "win_rate": rate}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    (Path(given["out"]) / "round.json").write_text(json.dumps(main(given)))
