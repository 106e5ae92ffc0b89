"""Turn what became of users' thumbs into rows of text. Reads no files."""

from components.campaign.files import RoundFiles
from components.report.wording import count

HEADINGS = (
    "came in",
    "up",
    "down",
    "corrections",
    "trained on",
    "set aside",
    "not usable",
    "left to later rounds",
)
CAUSE_HEADINGS = ("why a thumb was not trained on", "thumbs")
NOTE = (
    "Thumbs that came since the rounds before took theirs, as the round found them when it began; a correction counts "
    "as that alone. Each is trained on, set aside for good since it contains personal data or a secret, not usable "
    "now, or left to a later round. Nothing is kept of users who do not agree to it, so they are in no number here. "
    "Several thumbs on one answer make one row of the training."
)


def thumb_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return one row about the thumbs that a round looked at; the columns are `HEADINGS`."""
    feedback = files.feedback
    if feedback is None:
        return []
    numbers = (
        sum(feedback["offered"].values()),
        *(feedback["offered"][kind] for kind in ("up", "down", "correction")),
        feedback["taken"],
        feedback["quarantined"],
        sum(feedback["left_out"].values()),
        feedback["waiting"],
    )
    return [tuple(map(count, numbers))]


def cause_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return a row for each cause why thumbs were not trained on; the columns are `CAUSE_HEADINGS`."""
    feedback = files.feedback
    if feedback is None:
        return []
    causes = {f"set aside, {reason}": number for reason, number in feedback["quarantine_reasons"].items()}
    causes |= feedback["left_out"]
    if feedback["waiting"]:
        causes[feedback["shortage"] or "beyond preferences.feedback.max_rows"] = feedback["waiting"]
    return [(cause, count(number)) for cause, number in causes.items()]
