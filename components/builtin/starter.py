"""The built-in campaign's start model: an ordinary transformers causal LM of about a million parameters.

It is trained once and cached. It learns the corpus of mixed-quality replies as it is, so it writes well-formed replies
of every quality. Knows the world's prompts and corpus, never its judge.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from components.artifacts import MANIFEST, publishing, verified
from components.builtin.world import corpus, held_out_prompts, load_world, world_digest
from components.runtime import progress

CODE_VERSION = 1
"""Part of the cache's key: raise it when this module's training or files change."""

STEPS = 450
DRILL_SHARE = 0.22
"""Share of the steps, at the beginning, that are drills: without them the model needs several times as many steps to
learn to copy a number."""
ROWS_PER_STEP = 16
DRILLS_PER_STEP = 32
LEARNING_RATE = 2e-3
SHARPNESS = 1.25
"""Factor on the trained model's logits: it makes sentences well formed, and leaves open every choice that the corpus
leaves open."""
SEED = 20260803
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
}

PAD, UNKNOWN, USER, ASSISTANT, END = "<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>"
PIECE = r" ?[A-Za-z]+| ?#|[^A-Za-z#]"
"""A word or a number sign with the space before it, or any other single character, so that an order number is split
into digits."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role'] + ': use system, user or assistant') }}"
    "{% endif %}"
    "{{ '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' }}{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Row = tuple[list[int], list[int]]
"""Tokens of a prompt and of its reply."""
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Padded tokens (batch, seq), lengths of the prompts (batch,), lengths of the rows (batch,)."""


def starter_model(cache: Path | None = None) -> Path:
    """Return the directory of the start model, which is trained on first use and cached by a digest of its recipe.

    Args:
        cache: Folder of cached models; by default `ratchet` in `$XDG_CACHE_HOME` or `~/.cache`.
    """
    cache = _default_cache() if cache is None else cache
    directory = cache / f"starter-{_recipe_digest(STEPS)[:16]}"
    build_starter(directory, steps=STEPS)
    return directory


def build_starter(directory: Path, *, steps: int) -> None:
    """Train a start model and publish it under `directory`, complete or not at all; an intact one stays.

    Processes that build the same directory at the same time take turns: the first trains, the others find its result.
    One whose files no longer have their recorded hashes, as after a power cut, is trained again.

    Args:
        directory: Directory of the model; its parents are created.
        steps: Optimizer steps; `starter_model` uses `STEPS`, tests fewer.
    """
    if _is_intact(directory):
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.parent / f".{directory.name}.lock"):
        if _is_intact(directory):
            return
        with publishing(directory, stage="starter", version=CODE_VERSION, key=directory.name) as workspace:
            tokenizer = build_tokenizer()
            model = train_starter(tokenizer, steps=steps)
            disable_progress_bar()
            tokenizer.save_pretrained(workspace.path)
            model.save_pretrained(workspace.path)


def _is_intact(directory: Path) -> bool:
    """Return whether a start model can be taken; one of an earlier version has no hashes, and is taken as it is."""
    if directory.is_dir() and not (directory / MANIFEST).exists():
        return True
    return verified(directory, directory.name, version=CODE_VERSION) is not None


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer of the world's words, with a chat template; it decodes exactly what it encoded."""
    texts = [text for messages, reply in corpus() for text in (messages[0]["content"], reply)]
    texts += [messages[0]["content"] for messages in held_out_prompts()]
    pieces = sorted({piece for text in texts for piece in re.findall(PIECE, f" {text}")})
    special = [PAD, UNKNOWN, USER, ASSISTANT, END]
    words = {token: index for index, token in enumerate([*special, *pieces])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=ARCHITECTURE["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )


def train_starter(tokenizer: PreTrainedTokenizerFast, *, steps: int) -> LlamaForCausalLM:
    """Train a model on the corpus, supervised, with the loss on the replies only.

    On one kind of processor the weights are the same every time, however many threads torch may use.
    """
    with _one_thread():
        return _trained(tokenizer, steps)


def _trained(tokenizer: PreTrainedTokenizerFast, steps: int) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(_model_config(tokenizer))
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1, anneal_strategy="cos"
    )
    model.train()
    for step, (tokens, prompt_lengths, lengths) in enumerate(_batches(tokenizer, steps), start=1):
        loss = reply_loss(model, tokens, prompt_lengths, lengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps:
            progress.report(step, steps, f"starter loss {loss.item():.3f}")
    with torch.no_grad():
        model.lm_head.weight *= SHARPNESS
    return model.eval()


def reply_loss(
    model: LlamaForCausalLM, tokens: torch.Tensor, prompt_lengths: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Return the mean cross-entropy of the reply tokens of right-padded rows.

    Args:
        model: The model in training.
        tokens: Ids, (batch, seq).
        prompt_lengths: Tokens of each row's prompt, (batch,).
        lengths: Tokens of each row, (batch,).
    """
    places = torch.arange(tokens.shape[1] - 1)
    predicts_reply = (places >= prompt_lengths[:, None] - 1) & (places < lengths[:, None] - 1)
    hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[predicts_reply]), tokens[:, 1:][predicts_reply])


def _batches(tokenizer: PreTrainedTokenizerFast, steps: int) -> Iterator[Batch]:
    """Yield the batches of all steps: first drills, then the corpus."""
    rng = random.Random(SEED)
    drill_steps = int(DRILL_SHARE * steps)
    for _ in range(drill_steps):
        yield _padded([_row(tokenizer, *_drill(rng)) for _ in range(DRILLS_PER_STEP)], tokenizer.pad_token_id)
    yield from itertools.islice(_corpus_batches(tokenizer, rng), steps - drill_steps)


def _corpus_batches(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[Batch]:
    """Yield batches of the corpus in random order, without end.

    The rows of a batch have similar lengths, which keeps the padding small.
    """
    examples = corpus()
    window = 16 * ROWS_PER_STEP
    while True:
        rng.shuffle(examples)
        for start in range(0, len(examples) - window + 1, window):
            rows = [_row(tokenizer, *example) for example in examples[start : start + window]]
            rows.sort(key=lambda row: len(row[0]) + len(row[1]))
            batches = [rows[first : first + ROWS_PER_STEP] for first in range(0, window, ROWS_PER_STEP)]
            rng.shuffle(batches)
            yield from (_padded(batch, tokenizer.pad_token_id) for batch in batches)


def _drill(rng: random.Random) -> tuple[list[dict[str, str]], str]:
    """Return a short exercise and its answer.

    The answer repeats products and order numbers, or names the remedy of an issue and the days that it takes.
    """
    world = load_world()
    if rng.random() < 0.3:
        issue = rng.choice(list(world.issues.values()))
        remedy = world.remedies[issue.remedy]
        return [{"role": "user", "content": rng.choice(issue.phrases)}], f"{remedy.phrase} {remedy.days} days"
    items = [
        product if rng.random() < 0.5 else "#" + "".join(rng.sample("0123456789", 4))
        for product in rng.sample(world.products, 4)
    ]
    text = " ".join(items[: rng.randint(2, 4)])
    return [{"role": "user", "content": text}], text


def _row(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], reply: str) -> Row:
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return prompt, tokenizer(f"{reply}{END}", add_special_tokens=False)["input_ids"]


def _padded(rows: list[Row], pad: int) -> Batch:
    longest = max(len(prompt) + len(reply) for prompt, reply in rows)
    tokens = torch.tensor([prompt + reply + [pad] * (longest - len(prompt) - len(reply)) for prompt, reply in rows])
    return (
        tokens,
        torch.tensor([len(prompt) for prompt, _ in rows]),
        torch.tensor([len(prompt) + len(reply) for prompt, reply in rows]),
    )


def _model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        **ARCHITECTURE,
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the order of a sum depends on the number of threads, and with it every rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _recipe_digest(steps: int) -> str:
    training = [steps, DRILL_SHARE, ROWS_PER_STEP, DRILLS_PER_STEP, LEARNING_RATE, SHARPNESS, SEED]
    recipe = [CODE_VERSION, torch.__version__, world_digest(), ARCHITECTURE, training, PIECE, CHAT_TEMPLATE]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ratchet"
