"""Train the model that a campaign starts from on demonstrations, if its section `sft` names some."""

from pathlib import Path

from components.campaign.files import start_of_round
from components.campaign.state import round_directory
from components.data.content import content_key
from components.data.messages import without_system
from components.records import Artifact, StartPins
from components.start.pins import CheckedStart
from tasks.train_on_demonstrations import train_on_demonstrations


def trained_start(directory: Path, checked: CheckedStart, *, accept_changes: bool) -> tuple[Artifact | None, StartPins]:
    """Train the start model on demonstrations, if that is configured and not done.

    Returns:
        The trained model, and the pins with the date that its conversations tell.
    """
    config, pins = checked.config, checked.pins
    if not config.sft.demonstrations:
        return None, pins
    pinned, _ = start_of_round(directory, None)
    if pinned is not None and "sft" in pinned and not accept_changes:
        # Nothing that it was trained from has changed, or the start would have been refused.
        here = round_directory(directory, 0) / "sft"
        return Artifact(path=here, digest=pinned["sft"]["model_digest"]), pins
    # Loads torch, as only the stages do.
    from components.sft.preparing import campaign_request

    own = config.policy.system_prompt
    held_out = {content_key(without_system(each.messages, own)) for each in checked.inputs.prompts.held_out}
    request = campaign_request(
        config.sft, config.policy, held_out=held_out, template_date=pins.template_date, seed=config.seed
    )
    dated = pins.model_copy(update={"template_date": request.settings.template_date or pins.template_date})
    return train_on_demonstrations(directory, request), dated
