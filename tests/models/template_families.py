"""Chat templates as models of each family publish them, and a byte-level tokenizer for each.

The templates are those that the installed TRL keeps for its own tests, and three that it does not have.
`python -m tests.models.template_families` writes what is known of them into docs/models.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from components.models.tokens import ChatTokenizer, NotRendered

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- templates: begin -->", "<!-- templates: end -->"
CORPUS = [
    "The gate refused it because it had been used. It is refused, and the kettle is not replaced.",
    "Is the order late? Sorry, the order is on its way: we replaced the lamp and refunded the kettle.",
    "system user assistant model think",
]
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# Leaves out what stands before `</think>` in an answer, and leads to no thought.
STRIPS_THOUGHTS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + eos_token }}"
    "{% else %}{{ '<|User|>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"
)
OWN = (
    "{% for m in messages %}{{ '### ' + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template with the special tokens that it needs, and what is known of it."""

    template: str
    eos: str
    """The tokenizer's end of sequence: often not what ends a turn."""
    end_of_turn: str
    special: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    takes_text: bool = True
    """Whether an answer from outside, without a thought, can be rendered."""


def published(name: str) -> str:
    """Return a template of the installed TRL."""
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


FAMILIES = {
    "chatml": Family(published("qwen2_5"), "<|endoftext|>", "<|im_end|>", ("<|im_start|>",)),
    "llama-3": Family(
        published("llama3"), "<|end_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")
    ),
    "llama-3.2": Family(
        published("llama3_2"), "<|end_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")
    ),
    "gemma": Family(published("gemma"), "<eos>", "<end_of_turn>", ("<bos>", "<start_of_turn>")),
    "phi-3.5": Family(published("phi3_5"), "<|endoftext|>", "<|end|>", ("<|user|>", "<|assistant|>", "<|system|>")),
    "mistral": Family(MISTRAL, "</s>", "</s>", ("<s>", "[INST]", "[/INST]")),
    "qwen3 without thoughts": Family(
        published("qwen3"), "<|endoftext|>", "<|im_end|>", ("<|im_start|>",), {"enable_thinking": False}
    ),
    "qwen3": Family(published("qwen3"), "<|endoftext|>", "<|im_end|>", ("<|im_start|>",), takes_text=False),
    "r1": Family(
        published("deepseek_r1_distill"),
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>"),
        takes_text=False,
    ),
    "strips thoughts": Family(STRIPS_THOUGHTS, "<|end|>", "<|end|>", ("<|User|>", "<|Assistant|>")),
    "own": Family(OWN, "</s>", "</s>"),
}
"""By name."""


def family_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with the family's special tokens and template."""
    special = sorted({family.eos, family.end_of_turn, *family.special})
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(bytes_) + 60, initial_alphabet=bytes_, special_tokens=special, show_progress=False
    )
    bpe.train_from_iterator(CORPUS * 4, trainer)
    start = next((token for token in special if token in ("<s>", "<bos>")), family.eos)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=family.eos, bos_token=start, pad_token=family.eos
    )
    tokenizer.chat_template = family.template
    return tokenizer


def templates_table() -> str:
    """Return what is known of each family's chat template as a Markdown table, between its two marks."""
    lines = ["| chat template | answers end at | an answer from outside | writes the date |", "|" + " --- |" * 4]
    for name, family in FAMILIES.items():
        chat = ChatTokenizer(family_tokenizer(family), family.arguments)
        ends = ", ".join(f"`{chat.tokenizer.convert_ids_to_tokens(token)}`" for token in sorted(chat.stop_ids))
        try:
            chat.response_ids([{"role": "user", "content": "Is it late?"}], "Yes.", max_tokens=99)
            outside = "as it is"
        except NotRendered as error:
            outside = f"quarantined: {error.reason}"
        ends = ends.replace("|", "\\|")
        lines.append(f"| {name} | {ends} | {outside} | {'frozen' if chat.writes_date else 'no'} |")
    return "\n".join([BEGIN, *lines, END])


def main() -> None:
    """Write the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    start, stop = page.index(BEGIN), page.index(END) + len(END)
    PAGE.write_text(page[:start] + templates_table() + page[stop:], encoding="utf-8")


if __name__ == "__main__":
    main()
