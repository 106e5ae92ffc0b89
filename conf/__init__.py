"""Data, not code: a package only so that an installed `ratchet` finds its files."""
