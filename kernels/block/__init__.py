"""A whole transformer block of GPT-2 as one kernel."""
