"""The reward model judge: a sequence-classification model with one output, read through its own chat template.

Weights come from safetensors only and no remote code runs. A response that is too long for the model gets an invalid
verdict.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jinja2 import TemplateError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from components import artifacts
from components.artifacts import file_digest
from components.config import JudgeSettings
from components.data.messages import Messages, format_messages
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict, judge_alone
from components.judges.reward_model_directory import conversation_ids, longest_read, reward_model_directory
from components.models.cpu.layers import speed_up
from components.models.loading import pick_device, resolve_dtype, tensors_digest
from components.models.whole import LANGUAGE_HEADS, load_whole
from components.runtime import progress
from components.scoring.packed.layout import Packed
from components.scoring.packed.rewards import longest_rewarded, packed_rewards, split_shared
from components.scoring.response_logps import SCORED_TOKENS, together

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXT_FILES = (
    "config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
)


class _Text(NamedTuple):
    """A conversation with a response, in the model's tokens."""

    number: int
    conversation: str
    ids: list[int]


class _SplitText(NamedTuple):
    """A text in two parts: the tokens that all texts of its conversation begin with, and the rest. Neither is empty.

    Sorts in the order of batches.
    """

    prompt: list[int]
    response: list[int]
    text: _Text


class RewardModelJudge:
    """Score responses with the model's one logit.

    Packs the responses to a prompt into one row, so that the prompt is read once, if that is exact.
    """

    def __init__(self, config: JudgeSettings) -> None:
        """Load the model and its tokenizer.

        Raises:
            ValueError: The reward model cannot be used; one line with the remedy.
        """
        path = reward_model_directory(config)
        self.name = f"reward_model:{Path(config.model).name}"
        self._batch_size = config.batch_size
        self._tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        self._model = _load(path, config)
        self._max_tokens = longest_read(self._model.config, config.max_tokens)

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Score every response."""
        return judge_alone(self.name, groups, self._score)

    def _score(self, distinct: Sequence[tuple[Messages, str]]) -> list[Opinion]:
        inputs = [self._read(messages, text) for messages, text in distinct]
        opinions = {index: ids for index, ids in enumerate(inputs) if isinstance(ids, Opinion)}
        texts = [
            _Text(number, format_messages(messages), ids)
            for number, ((messages, _), ids) in enumerate(zip(distinct, inputs, strict=True))
            if not isinstance(ids, Opinion)
        ]
        for batch, logits in self._batches(texts):
            opinions |= {text.number: Opinion(logit) for text, logit in zip(batch, logits, strict=True)}
            progress.report(len(opinions), len(distinct), "responses judged")
        return [opinions[index] for index in range(len(distinct))]

    def _batches(self, texts: Sequence[_Text]) -> Iterator[tuple[list[_Text], list[float]]]:
        """Yield texts in batches, with their logits: packed if that is exact, else padded to a similar length.

        Ids break ties of length, so that batches, and with them the last bits of a score, do not depend on the order of
        the input.
        """
        packable, others = self._split(texts)
        packable.sort()
        prompts, responses = [text.prompt for text in packable], [text.response for text in packable]
        for rows in together(prompts, responses, max_tokens=SCORED_TOKENS, max_rows=self._batch_size, packed=True):
            yield (
                [packable[row].text for row in rows],
                self._packed([prompts[row] for row in rows], [responses[row] for row in rows]),
            )
        others.sort(key=lambda text: (len(text.ids), text.ids))
        for start in range(0, len(others), self._batch_size):
            batch = others[start : start + self._batch_size]
            yield batch, self.logits([text.ids for text in batch])

    def _split(self, texts: Sequence[_Text]) -> tuple[list[_SplitText], list[_Text]]:
        """Split texts after the tokens that their conversation shares; return those that cannot be split apart."""
        longest = longest_rewarded(self._model)
        pad_id = self._model.config.get_text_config().pad_token_id
        of_conversation: defaultdict[str, list[_Text]] = defaultdict(list)
        for text in texts:
            of_conversation[text.conversation].append(text)
        split: list[_SplitText] = []
        others: list[_Text] = []
        for group in of_conversation.values():
            # The model's own padding token counts, whatever we pad with.
            shared, rests = split_shared([text.ids for text in group], pad_id)
            for text, rest in zip(group, rests, strict=True):
                if shared and len(shared) + len(rest) <= longest:
                    split.append(_SplitText(shared, rest, text))
                else:
                    others.append(text)
        return split, others

    def _read(self, messages: Messages, text: str) -> list[int] | Opinion:
        """Return the token ids of the conversation with the response, or an opinion that says why it cannot be read."""
        try:
            ids = conversation_ids(self._tokenizer, messages, text)
        except TemplateError as error:
            return Opinion(None, f"the reward model's chat template refuses the conversation: {error}")
        if len(ids) > self._max_tokens:
            return Opinion(
                None, f"prompt and response have {len(ids)} tokens, and the reward model reads {self._max_tokens}"
            )
        return ids if ids else Opinion(None, "prompt and response have no tokens")

    @torch.inference_mode()
    def _packed(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        return (
            packed_rewards(self._model, Packed(prompts, responses, self._model.device, self._model.dtype, ends=True))
            .float()
            .tolist()
        )

    def logits(self, batch: list[list[int]]) -> list[float]:
        """Return the model's one logit for each conversation's token ids, in one batch."""
        pad_id = self._pad_id(batch)
        if pad_id is None:
            return [logit for ids in batch for logit in self._forward([ids], 0)]
        return self._forward(batch, pad_id)

    def _pad_id(self, batch: list[list[int]]) -> int | None:
        """Return the token to pad with: the model's own, else one that occurs in no text; None if every token occurs.

        Decoder models read the logit at the last token that is not padding. A padding token that also ends texts (often
        end-of-turn) would move that position. The model's own padding token is safe: its configuration names it, so the
        model was trained with it.
        """
        embeddings: Any = self._model.get_input_embeddings()
        own, size = self._model.config.get_text_config().pad_token_id, embeddings.num_embeddings
        if own is not None and 0 <= own < size:
            return int(own)
        used = {token for ids in batch for token in ids}
        return next((token for token in range(size) if token not in used), None)

    @torch.inference_mode()
    def _forward(self, batch: list[list[int]], pad_id: int) -> list[float]:
        settings, device = self._model.config.get_text_config(), self._model.device
        own, length = settings.pad_token_id, max(len(ids) for ids in batch)
        ids = torch.tensor([row + [pad_id] * (length - len(row)) for row in batch], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in batch], device=device)
        if len(batch) > 1:
            settings.pad_token_id = pad_id
        try:
            logits = self._model(input_ids=ids, attention_mask=mask).logits
        finally:
            settings.pad_token_id = own
        return [float(logit) for logit in logits[:, 0].float().cpu()]


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge of a reward model; the context is not used."""
    return RewardModelJudge(config)


def digest(config: JudgeSettings) -> str:
    """Return the identity of a reward model.

    It covers the tensors, configuration, tokenizer and chat template, but not their path.
    """
    path = reward_model_directory(config)
    texts = {file.name: file_digest(file) for pattern in TEXT_FILES for file in path.glob(pattern)}
    return artifacts.digest({"tensors": tensors_digest(sorted(path.glob("*.safetensors"))), "files": texts})


def _load(path: Path, config: JudgeSettings) -> "PreTrainedModel":
    model, _ = load_whole(
        AutoModelForSequenceClassification,
        str(path),
        name=f"judge.model {config.model}",
        remedy="save the whole model",
        may_hold=LANGUAGE_HEADS,
        dtype=resolve_dtype(config.dtype),
    )
    speed_up(model)
    return model.to(pick_device()).eval()
