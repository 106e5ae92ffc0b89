"""Functions that ship with the project, to use as they are or to copy; each reads the columns of the prompts' rows."""
