"""Work with a campaign's past: compare rounds, trace a model's lineage, roll the champion back, free disk space."""
