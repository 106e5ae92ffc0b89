"""The commands of `ratchet`, one module a group. `flows.cli` puts them together."""
