"""The AdamW update and the gradient norm, over a list of arrays in one call."""
