"""Rows gathered from a table, and their gradients scattered back."""
