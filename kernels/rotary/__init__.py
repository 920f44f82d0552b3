"""Rotary positions: pairs of numbers turned by angles."""
