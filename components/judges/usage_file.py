"""What a stage's calls to chat endpoints came to, as it publishes it."""

from pathlib import Path

from components.artifacts import write_json
from components.judges.chat.ledger import read_usage

USAGE = "judge_usage.json"


def write_usage(out: Path, scratch: Path) -> None:
    """Writes what the calls took that `scratch` knows of, over all starts of the stage; nothing where no endpoint was asked."""
    usage = read_usage(scratch)
    if usage is not None:
        write_json(out / USAGE, usage._asdict())
