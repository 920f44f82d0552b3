"""The pages of files, rendered by all cores: colouring programs takes most of the site's time."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from chapters.site.pages import Site, html_page

in_worker: list[Site] = []  # a forked worker's site, with the syntax trees that its parent has already made


@contextmanager
def rendering(site: Site) -> Iterator[Callable[[], dict[str, str]]]:
    """Begin to render; in the with block, the function waits for {address: page}, and other work can come before.

    Where processes cannot be forked, the function does the work itself.
    """
    if not sys.platform.startswith("linux"):
        yield lambda: {page.address: html_page(site, page) for page in site.pages}
        return
    workers = min(len(os.sched_getaffinity(0)), 8)
    with ProcessPoolExecutor(workers, get_context("fork"), in_worker.append, (site,)) as pool:
        pending = pool.map(render, range(len(site.pages)), chunksize=4)
        yield lambda: dict(pending)


def render(index: int) -> tuple[str, str]:
    """(address, page) of a page, in a worker."""
    (site,) = in_worker
    page = site.pages[index]
    return page.address, html_page(site, page)
