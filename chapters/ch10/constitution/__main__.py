"""The command `python -m chapters.ch10.constitution`; stage.py explains and runs it."""

from chapters.ch10.constitution.stage import PLANS, Settings, main
from chapters.support.command import command

if __name__ == "__main__":
    command(main, Settings, presets={"quick": {"plan": PLANS["quick"]}})
