"""Headline results of seven papers in miniature, one file for each: start with `experiment.Headline`, then gao.py."""
