"""The reward that a campaign has inferred, saved as a judge and measured on demonstrations."""
