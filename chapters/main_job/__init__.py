"""The main job, `python -m chapters`: its stages, the order in which they run, and the page of results."""
