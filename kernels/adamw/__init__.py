"""The AdamW update and the gradient norm, for a whole list of arrays in one call."""
