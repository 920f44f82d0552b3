"""The rows of `chapters.ch10_headlines`, a paper a file: what it measured and where, and the same in miniature."""
