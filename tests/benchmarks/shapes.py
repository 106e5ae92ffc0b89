"""Models of random weights, and pairs of random tokens whose lengths are like those of known data sets.

Nothing is downloaded.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

CPU = torch.device("cpu")
PAD, EOS, FIRST = 0, 1, 2


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 model."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    ffn: int
    vocabulary: int
    tied: bool = True
    pad: ClassVar[int] = PAD
    end: ClassVar[int] = EOS

    def build(self, dtype: torch.dtype, device: torch.device = CPU) -> Any:
        """Return the model, with weights that depend on the shape and the kind of device only."""
        from transformers import AutoModelForCausalLM, Qwen2Config

        config = Qwen2Config(**self.sizes)
        with torch.random.fork_rng(devices=[]), device:
            torch.manual_seed(5)
            return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")

    def as_dataset(self, pairs: Sequence["Triple"]) -> list[dict[str, Any]]:
        """Return pairs as a trainer reads them: words of `tokenizer`."""
        return [pair.as_text() for pair in pairs]

    def tokenizer(self) -> Any:
        """Return the model's tokenizer."""
        return tokenizer(self.vocabulary)

    @property
    def sizes(self) -> dict[str, Any]:
        """Return the sizes by the names of a model's configuration."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 32768,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
            "bos_token_id": None,
        }

    @property
    def weights(self) -> int:
        """Return the number of weights of all matrices."""
        return self.backbone + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def backbone(self) -> int:
        """Return the number of weights of all matrices but the head and the embedding."""
        size = self.hidden // self.heads
        attention = self.hidden * size * (2 * self.heads + 2 * self.key_heads)
        return self.layers * (attention + 3 * self.hidden * self.ffn)


SHAPES = {
    "micro": Shape(hidden=64, layers=2, heads=2, key_heads=1, ffn=128, vocabulary=512),
    "tiny": Shape(hidden=384, layers=6, heads=6, key_heads=2, ffn=1024, vocabulary=16384),
    "small": Shape(hidden=896, layers=4, heads=14, key_heads=2, ffn=4864, vocabulary=151936),
    "qwen2.5-1.5b": Shape(hidden=1536, layers=28, heads=12, key_heads=2, ffn=8960, vocabulary=151936),
    "llama-8b": Shape(hidden=4096, layers=32, heads=32, key_heads=8, ffn=14336, vocabulary=128256, tied=False),
}


@dataclass(frozen=True)
class Profile:
    """Median tokens of a prompt and of a response; both are log-normal."""

    prompt: int
    answer: int
    spread: float = 0.6


PROFILES = {
    "ultrafeedback": Profile(121, 288),
    "hh-rlhf": Profile(127, 59),
    "helpsteer": Profile(670, 105),
    "tldr": Profile(382, 34),
    "no padding": Profile(8, 200, spread=0.0),
}
"""Prompt to answer 0.42, 2.15, 6.3 and 11 at the median lengths of those sets (arXiv 2410.20305); and all equal: our
worst case."""
WORST = "no padding"


@dataclass(frozen=True)
class Triple:
    """A pair as token ids; responses end with the end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def as_text(self) -> dict[str, str]:
        """Return the same pair as words of `tokenizer`."""
        return {name: " ".join(map(_word, ids)) + " " * (name == "prompt") for name, ids in asdict(self).items()}


def _word(token: int) -> str:
    return "</s>" if token == EOS else f"t{token}"


def triples(profile: Profile, count: int, vocabulary: int, *, longest: int, seed: int = 1) -> list[Triple]:
    """Return random pairs; no prompt and response together have more than `longest` tokens."""
    chance = np.random.default_rng(seed)

    def length(median: int) -> int:
        return max(1, round(float(chance.lognormal(np.log(median), profile.spread)) if profile.spread else median))

    def draw(many: int) -> list[int]:
        return [int(token) for token in chance.integers(FIRST, vocabulary, many)]

    made = []
    for _ in range(count):
        prompt = draw(min(length(profile.prompt), longest - 2))
        answers = [[*draw(max(1, min(length(profile.answer), longest - len(prompt)) - 1)), EOS] for _ in range(2)]
        made.append(Triple(prompt, *answers))
    return made


def tokenizer(vocabulary: int) -> Any:
    """Return a tokenizer with one word per token, built here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "</s>": EOS} | {f"t{token}": token for token in range(FIRST, vocabulary)}
    plain = Tokenizer(WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<pad>")


def fingerprint(pairs: Sequence[Triple]) -> str:
    """Return a digest that is equal for equal pairs in any order."""
    return json.dumps(sorted([pair.prompt, pair.chosen, pair.rejected] for pair in pairs))


def unique_flops(shape: Shape, pairs: Sequence[Triple]) -> float:
    """Return the floating-point operations of one forward pass over the unique tokens.

    The head is applied to responses only; attention is exactly causal.

    A training step makes three times as many, and the reference's pass once as many.
    """
    total = 0.0
    for pair in pairs:
        prompt, chosen, rejected = len(pair.prompt), len(pair.chosen), len(pair.rejected)
        seen = (prompt + chosen) ** 2 / 2 + rejected * prompt + rejected**2 / 2
        total += 2 * shape.backbone * (prompt + chosen + rejected) + 2 * shape.vocabulary * shape.hidden * (
            chosen + rejected
        )
        total += 4 * shape.layers * shape.hidden * seen
    return total
