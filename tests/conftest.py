"""What the tests of all floors share: threads, and the fixture that most tests of pages need, a main job in miniature."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_job import SECOND, TINY

TESTS = Path(__file__).parent
PATIENCE = 600  # seconds that a process waits for the job of another


@pytest.fixture(scope="module", autouse=True)
def one_thread(request) -> Iterator[None]:
    """Where pytest-xdist runs two files at once, chapters use one thread each; four would wait for each other.

    The tests of kernels and of the engine keep all threads.
    """
    floor = request.path.relative_to(TESTS).parts[0]
    if "PYTEST_XDIST_WORKER" not in os.environ or floor in ("kernels", "minigrad"):
        yield
        return
    from minigrad import processor

    threads = processor.get_num_threads()
    processor.set_num_threads(1)
    yield
    processor.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The folder of a main job in miniature, to be read only.

    With pytest-xdist, the first process that needs it makes it, and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny_run"
    failed, page = folder.with_suffix(".failed"), folder / "report.html"
    try:
        folder.with_suffix(".begun").mkdir()
    except FileExistsError:
        deadline = time.monotonic() + PATIENCE
        while not page.exists():
            assert not failed.exists(), "the process that makes the main job in miniature has failed"
            assert time.monotonic() < deadline, "the process that makes the main job in miniature does not end"
            time.sleep(0.2)
        return folder
    try:
        run_tiny_job(folder)
    except BaseException:
        failed.touch()
        raise
    return folder


def run_tiny_job(folder: Path) -> None:
    """Run the main job with the miniature's plans, in this process and with one thread."""
    import chapters.__main__ as main_job
    from chapters.main_job import first_bend, second_bend
    from minigrad import processor

    before, threads = (first_bend.PLANS, second_bend.PLANS), processor.get_num_threads()
    processor.set_num_threads(1)  # one thread fixes the order of sums
    first_bend.PLANS, second_bend.PLANS = {"full": TINY, "quick": replace(TINY, snippets=9)}, {"full": SECOND, "quick": SECOND}
    try:
        main_job.main(main_job.Settings(out=folder, processes=1))
    finally:
        first_bend.PLANS, second_bend.PLANS = before
        processor.set_num_threads(threads)
