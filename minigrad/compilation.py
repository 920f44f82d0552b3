"""compile: accepted, so that listings run, but minigrad has no compiler."""

import warnings
from collections.abc import Callable
from typing import Any


def compile(model: Any = None, **options: Any) -> Any:
    """Return a function or module unchanged, with a warning. Also a decorator, with or without arguments.

    On a GPU, `mg.graphed` (graphed.py) replays a training step as one launch.

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     compile(len) is len
    True
    """
    unknown = set(options) - {"fullgraph", "dynamic", "backend", "mode", "options", "disable", "name"}
    if unknown:
        raise TypeError(f"compile: expected PyTorch's options, got {', '.join(sorted(unknown))}")
    if model is None:

        def decorate(function: Callable) -> Callable:
            return compile(function, **options)

        return decorate
    warnings.warn("compile: minigrad has no compiler; the function runs uncompiled", stacklevel=2)
    return model
