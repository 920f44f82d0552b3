"""Rotary positions: pairs of numbers rotated by angles that grow with the position."""
