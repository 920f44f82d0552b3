"""The site: the project's own files as pages to read beside the book.

    python -m chapters.site --serve

Its text is that of the docstrings, the comments and the README; nothing is written twice. `sources` lists the files, and
`rows` cuts them into pieces of prose and code. `prose`, `segments` and `formulas` turn text and derivations into HTML and
MathML, `code` colours programs, and `names` finds where a name is defined. `pages` sets the rows side by side, `front` writes
the pages that lead to them, from `readme` and `walk`, and `rendering` shares the work among the cores.
"""
