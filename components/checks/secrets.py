"""The check for secrets: keys and tokens in the formats of their vendors, private keys, passwords in addresses."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from components.checks.entries import Entries, Flag
from components.config import ChecksConfig


class Span(NamedTuple):
    """A part of a text that must not be shown, and what it is."""

    kind: str
    start: int
    end: int


class Format(NamedTuple):
    """The format of a secret: a part that all have, which is quick to look for, and the whole."""

    kind: str
    part: str
    whole: re.Pattern[str]


def _format(kind: str, part: str, whole: str) -> Format:
    return Format(kind, part, re.compile(whole))


_FORMATS = (
    _format("AWS access key", "AKIA", r"\bAKIA[A-Z2-7]{16}\b"),
    _format("AWS access key", "ASIA", r"\bASIA[A-Z2-7]{16}\b"),
    _format("GitHub token", "_", r"\bgh[pousr]_[A-Za-z0-9]{36,251}\b"),
    _format("GitHub token", "github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{22,255}\b"),
    _format("GitLab token", "glpat-", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    _format("Slack token", "xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _format("Slack webhook", "hooks.slack.com", r"hooks\.slack\.com/services/T[A-Z0-9]+/B[A-Z0-9]+/[A-Za-z0-9]{20,}"),
    _format("Stripe key", "_live_", r"\b[rs]k_live_[A-Za-z0-9]{16,}"),
    _format("Google API key", "AIza", r"\bAIza[A-Za-z0-9_-]{35}"),
    _format("Google OAuth secret", "GOCSPX-", r"\bGOCSPX-[A-Za-z0-9_-]{28}"),
    _format("Anthropic key", "sk-ant-", r"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    _format(
        "OpenAI key", "sk-", r"\bsk-(?:proj-|svcacct-)[A-Za-z0-9_-]{20,}|\bsk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}"
    ),
    _format("Hugging Face token", "hf_", r"\bhf_[A-Za-z]{34}\b"),
    _format("npm token", "npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    _format("PyPI token", "pypi-", r"\bpypi-[A-Za-z0-9_-]{60,}"),
    _format("SendGrid key", "SG.", r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _format("DigitalOcean token", "_v1_", r"\bdo[opr]_v1_[a-f0-9]{64}\b"),
    _format("Telegram bot token", ":AA", r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}\b"),
    _format("JSON Web Token", "eyJ", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    _format(
        "private key", "PRIVATE KEY", r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[^-]*(?:-----END [A-Z ]*-----)?"
    ),
    _format("password in an address", "://", r"\b[a-z][a-z0-9+.-]*://[^\s:/@]+:[^\s:/@]{3,}@[^\s/]+"),
)
RARE = ("_", "sk-", "eyJ", ":", "")
"""Parts that several formats have in common; without one in a text, its formats are not looked for."""
FORMATS = {
    rare: [each for each in _FORMATS if next(other for other in RARE if other in each.part) == rare] for rare in RARE
}
PLACEHOLDERS = re.compile(r"EXAMPLE|xxxx|XXXX|\*\*\*|:(?:password|pass|pwd|passwd|secret)@|<|\{")
"""Words of documentation in place of a secret."""


def find_secrets(text: str) -> list[Span]:
    """Return the secrets in a text, in the order of their places."""
    spans = [
        Span(format_.kind, *found.span())
        for rare, formats in FORMATS.items()
        if rare in text
        for format_ in formats
        if format_.part in text
        for found in format_.whole.finditer(text)
        if not PLACEHOLDERS.search(found[0])
    ]
    return sorted(spans, key=lambda span: span.start)


def secrets(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find secrets in prompts and answers."""
    for entry in entries.pairs:
        for text in entry.texts:
            spans = find_secrets(text)
            if spans:
                yield Flag(entry.row, spans[0].kind, text, spans[0].start, spans[0].end)
                break
