"""The rows of the headline table, a paper a file; each function's text says what the paper measured and what we do."""

from chapters.headlines.christiano import christiano
from chapters.headlines.gao import gao
from chapters.headlines.ouyang import ouyang
from chapters.headlines.stiennon import stiennon
from chapters.headlines.taori import taori
from chapters.headlines.wei import wei

ROWS = {row.__name__: row for row in (wei, gao, stiennon, taori, christiano, ouyang)}
