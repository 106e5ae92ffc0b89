"""The user's own functions: found, pinned by their code, and called in a process of their own."""
