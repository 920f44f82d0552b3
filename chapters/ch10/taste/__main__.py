"""The command `python -m chapters.ch10.taste`; the package's docstring explains it."""

from chapters.ch10.taste.command import QUICK, Settings, main
from chapters.support.command import command

if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})
