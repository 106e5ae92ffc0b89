"""Files that are truncated, empty, or have one wrong bit: made anew, or refused by a line that names the file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.campaigns import KILLED, WHOLE, Campaign, check_same


def truncated(content: bytes) -> bytes:
    """Return the first half, as a disk that lost its last blocks has it."""
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """Return the content with one wrong bit: in the first letter of a string of JSON, if there is one."""
    middle = len(content) // 2
    string = content.find(b'"', middle)
    while -1 < string < len(content) - 1 and not content[string + 1 : string + 2].isalpha():
        string = content.find(b'"', string + 1)
    middle = string + 1 if -1 < string < len(content) - 1 else middle
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def empty(content: bytes) -> bytes:
    """Return nothing, as a file system has a file whose data was not yet written when the power went."""
    return b""


DAMAGES = (truncated, flipped, empty)
MADE_ANEW = {
    "round-001/checkpoints/*/step-000012/HASHES.json": "step-000012 is not used",
    "round-001/checkpoints/*/step-000012/*/mp_rank_00_model_states.pt": "step-000012 is not used",
    "round-001/checkpoints/*/step-000012/metrics.jsonl": "step-000012 is not used",
    "round-001/checkpoints/*/reference.safetensors": "reference.safetensors is damaged and not used",
    "round-001/generate_responses/MANIFEST.json": "running the stage again",
    "round-001/generate_responses/responses.parquet": "no longer matches its recorded hash",
    "round-001/collect_preferences/preferences.parquet": "no longer matches its recorded hash",
    "round-001/validate_data/train.parquet": "no longer matches its recorded hash",
    "round-001/validate_data/validation.json": "no longer matches its recorded hash",
    "round-000/start/MANIFEST.json": "running the stage again",
    "round-000/start/train_prompts.parquet": "no longer matches its recorded hash",
    ".flow_run": "",
    ".lock": "",
}
"""Files of a campaign whose training was killed behind its second checkpoint, and what its log says of each."""
CHANGED = {("config.json", flipped): ("the config of campaign struck has changed", "undo the change")}
"""A bit within a value or a name makes another configuration."""
REFUSED = {
    "campaign.json": ("campaign.json is damaged", "restore it or move the campaign's directory away"),
    "config.json": ("config.json is damaged", "restore it, or remove it to have it made anew"),
    "round-001/spent.json": ("spent.json is damaged", "restore it, or remove it to have it made anew"),
    "round-000/start/start.json": ("start.json is damaged", "to pin the inputs anew"),
    "round-000/start/held_out_prompts.parquet": ("held_out_prompts.parquet is damaged", "to pin the inputs anew"),
}
"""Files that nothing can make anew as they were, and what the line says of each."""
Damage = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def interrupted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    campaign = Campaign(tmp_path_factory.mktemp("damage") / "interrupted", model)
    ended = campaign.run(action="kill", at="after rename */checkpoints/*/step-000012 *")
    assert ended.code == KILLED, ended.said
    assert len(list(campaign.directory.glob("round-001/checkpoints/*/step-*"))) == 2
    return campaign


def damage(campaign: Campaign, pattern: str, how: Damage) -> tuple[Path, bytes]:
    """Damage the file of a pattern, and return it with its content before."""
    (path,) = campaign.directory.glob(pattern)
    content = path.read_bytes()
    path.write_bytes(how(content))
    return path, content


def cases() -> list[tuple[Damage, tuple[str, ...]]]:
    """Return what is damaged together: each file alone, and in the short form a third of the files in each way."""
    if WHOLE:
        return [(how, (pattern,)) for how in DAMAGES for pattern in MADE_ANEW]
    return [(how, tuple(MADE_ANEW)[number :: len(DAMAGES)]) for number, how in enumerate(DAMAGES)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("how", "patterns"), [pytest.param(how, files, id=f"{how.__name__}-{files[0]}") for how, files in cases()]
)
def test_damaged_file_is_noticed_and_made_anew(
    how: Damage, patterns: tuple[str, ...], interrupted: Campaign, undisturbed: Campaign, tmp_path: Path
) -> None:
    campaign = interrupted.copy(tmp_path / "damaged")
    for pattern in patterns:
        damage(campaign, pattern, how)
    campaign.run().went_well()
    check_same(campaign, undisturbed)
    log = (campaign.directory / "campaign.log").read_text()
    assert [pattern for pattern in patterns if MADE_ANEW[pattern] not in log] == []


@pytest.mark.timeout(900)
def test_damaged_file_that_cannot_be_made_anew_is_refused_by_its_name(
    interrupted: Campaign, undisturbed: Campaign, tmp_path: Path
) -> None:
    campaign = interrupted.copy(tmp_path / "damaged")
    before = campaign.manifests()
    for number, (pattern, parts) in enumerate(REFUSED.items()):
        for how in DAMAGES if WHOLE else DAMAGES[number % 3 :][:1]:
            path, content = damage(campaign, pattern, how)
            campaign.run().told(2, *CHANGED.get((pattern, how), parts))
            path.write_bytes(content)
    assert campaign.manifests() == before
    campaign.run().went_well()
    check_same(campaign, undisturbed)
