"""Questions to an OpenAI-compatible chat endpoint: concurrent, limited, budgeted, and cached so that no answer is paid for twice."""
