"""Cross-entropy of logits against class indices, with ignored rows."""
