"""Dropout whose mask is computed from a seed and a position, and never stored."""
