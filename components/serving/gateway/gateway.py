"""What the front serves, and to whom. Knows no route."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from components.config import FeedbackConfig
from components.feedback.store import FeedbackStore
from components.serving.gateway.canary import Canary
from components.serving.gateway.sent_answers import SentAnswers
from components.serving.gateway.sessions import Door
from components.serving.gateway.upstream import Engine


@dataclass
class Gateway:
    """What the front serves."""

    campaign: str
    champion: Engine
    challenger: Engine | None
    canary: Canary | None
    store: FeedbackStore
    feedback: FeedbackConfig
    door: Door
    hosts: Collection[str]
    """Names under which browsers may ask for the pages."""
    example: dict[str, Any]
    """A request whose settings the chat page sends too."""
    system_prompt: str
    sent: SentAnswers = field(default_factory=SentAnswers)

    def engine_of(self, conversation: str) -> Engine:
        """Return the engine that answers a conversation."""
        takes = self.canary is not None and self.challenger is not None and self.canary.takes(conversation)
        return self.challenger if takes and self.challenger is not None else self.champion
