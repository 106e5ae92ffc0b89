"""Judges: one protocol, one file per judge, and a registry that imports and creates the configured one."""
