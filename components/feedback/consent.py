"""What users agree to before anything of theirs is kept."""

from components.config import FeedbackConfig


def consent_text(feedback: FeedbackConfig) -> str:
    """Return the text of the configuration, or one that says what is kept, for how long and what for."""
    return feedback.consent or (
        "If you agree, your conversation is kept when you rate an answer or correct it: your messages, the answer, "
        "your rating and your correction. It is used to train the next version of this assistant. The texts are "
        f"deleted after {feedback.retention_days} days, or earlier if you ask for it and name the conversation's "
        "number; what a training has already used stays in that training's records. Do not enter personal data. "
        "Without your agreement you may chat and rate nothing, and nothing is kept."
    )
