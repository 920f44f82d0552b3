"""Refuses to start if `import kernels` would find another package: PyPI has one of this name, and users may have others.

In a checkout minigrad, kernels and chapters are packages of their own. Outside the checkout's folder an editable install comes
last on Python's path, after any other `kernels`. Importing this file raises an error then, before anything is imported from
the wrong package. In a plain install kernels is `minigrad.kernels`, which nothing else can shadow.
"""

from importlib.util import find_spec
from pathlib import Path


def check() -> None:
    """Raise an ImportError if `import kernels` would import a foreign package; it says where that package is."""
    spec = find_spec("kernels")
    if spec is None:
        return  # Python's own message says that there is none
    folders = list(spec.submodule_search_locations or [])
    if folders and Path(folders[0], "softmax", "reference.py").is_file():
        return
    root = Path(__file__).parents[1]
    raise ImportError(
        f"minigrad: expected its own package `kernels`, in {root}, got {spec.origin or folders[0]}; start Python with "
        f"`python -m` inside {root}, or install a copy that does not share the name: pip install {root} (without -e)"
    )


check()
