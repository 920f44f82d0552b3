"""Layer normalisation over the last axis."""
