"""The door of promotion: puts the evaluation to the gate and writes down what it says."""

from pathlib import Path

from components.artifacts import read_json, write_json
from components.promotion.gate import decide
from components.records import PromoteRequest


def run(request: PromoteRequest, out: Path) -> None:
    """Writes `decision.json`."""
    decision = decide(read_json(request.evaluation.path), request.gate)
    write_json(out / "decision.json", {"promoted": decision.promoted, "reasons": list(decision.reasons)})
