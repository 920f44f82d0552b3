"""The rows of `chapters.ch10.headlines.__main__`, a paper a file: what it measured and where, and the same in miniature."""
