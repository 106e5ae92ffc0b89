"""What the views of a campaign hold: MLflow and the Prefect page."""

from components.config.section import Section


class TrackingConfig(Section):
    """What MLflow and the Prefect page get.

    No round's result depends on it, so it may differ between two starts of a campaign.
    """

    texts: bool = True
    """Send prompts, responses, judges' reasons and quarantined pairs to MLflow and the Prefect page. false keeps them,
    and the log lines that may quote them, in the campaign's directory."""
