"""A model's layers where the processor is a CPU: the same numbers, faster."""
