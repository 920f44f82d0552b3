"""Scaled dot-product attention, causal or not, with past keys and left padding."""
