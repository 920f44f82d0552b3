"""In what order the main job's stages run, and which of them side by side.

What this file teaches: two threads make one step of so small a model 1.4 times as fast, because much of a step is work
that cannot be divided: Python between the kernels, and threads that wait for one another. Two stages that do not need
each other, with one thread each, make two steps in the time of one. After pretraining there are always two such stages,
and each finds what it needs in the folders of those before it; so from there on the job runs in two processes.
"""

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from chapters.main_job import first_bend, second_bend
from minigrad import processor
from minigrad.serialization import write_atomically

STAGES = {
    "world": first_bend.make_world,
    "tokenizer": first_bend.make_tokens,
    "pretrain": first_bend.pretrain,
    "sample": first_bend.sample,
    "classify": first_bend.train_classifiers,
    "sft": first_bend.fine_tune,
    "evaluate": first_bend.evaluate,
    **second_bend.STAGES,
}
# The stages that share the processor, and which of the others each of them needs; in the order in which they begin where
# they can, so that the longest way to the end comes first. The rest run alone: what stands before them here is done then.
NEEDS = {
    "assistant": (),
    "constitution": ("assistant",),
    "reward": ("assistant",),
    "rlhf": ("reward",),
    "sample": (),
    "classify": (),
    "sft": (),
    "evaluate": ("sft",),
}


def run_stages(job, processes):
    """Run every stage, or take over what it found before; job.results has what each of them returned."""
    missing = {name for name in STAGES if not result_of(job, name).exists()}
    for name in STAGES:
        if name in missing.intersection(NEEDS) and processes > 1:
            share_the_processor(job, missing.intersection(NEEDS), processes)
            missing -= NEEDS.keys()
        if name in missing or name not in job.results:
            run_stage(job, name)


def share_the_processor(job, missing, processes):
    """Run the missing ones of NEEDS in so many processes, each with its share of the threads, as its needs allow.

    The last stage, too, keeps to its share: sums are made in an order that depends on the number of threads, and what comes
    out should not depend on which stage happens to be the last.
    """
    share = max(1, processor.get_num_threads() // processes)
    print(f"From here on {processes} stages run at a time, on {share} thread{'s' * (share > 1)} each.", flush=True)
    waiting, running, done = [name for name in NEEDS if name in missing], {}, NEEDS.keys() - missing
    pool = ProcessPoolExecutor(processes, get_context("spawn"), begin_worker, (share,))
    try:
        while waiting or running:
            ready = [name for name in waiting if done.issuperset(NEEDS[name])]
            for name in ready[: processes - len(running)]:
                waiting.remove(name)
                with processor.without_interrupt():  # which a worker inherits while it imports
                    running[pool.submit(in_worker, job, name)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if running and not isinstance(future.exception(), BrokenProcessPool | None):
                    print(f"{name} stopped; waiting for {' and '.join(running.values())}", file=sys.stderr, flush=True)
                future.result()
                done.add(name)
                job.results[name] = read_json(result_of(job, name))
    except KeyboardInterrupt:  # Ctrl-C reaches the workers, too: they finish a step, save, and say where
        pool.shutdown(cancel_futures=True)
        ends = [future.exception() for future in running if not future.cancelled()]
        said = [str(end) for end in ends if isinstance(end, KeyboardInterrupt)]
        raise KeyboardInterrupt("\n".join(filter(None, said))) from None
    except BrokenProcessPool:
        raise ChildProcessError(
            "the process of a stage was killed, perhaps for want of memory; give the same command again to go on, "
            "with --processes 1 if memory is short"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def begin_worker(threads):
    """What a process does before its first stage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while it waits for a stage, Ctrl-C is the first process's matter
    processor.set_num_threads(threads)
    sys.stderr = Unadorned(sys.stderr)
    threading.Thread(target=leave_with_the_first, daemon=True).start()


def leave_with_the_first():
    """A job that was killed leaves no stage behind that nobody waits for; whatever is on disk was written whole."""
    parent_process().join()
    os._exit(1)


class Unadorned:
    """A stream that says it is no terminal: the progress bars of two processes would write over each other."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def isatty(self):
        return False


def in_worker(job, name):
    """Run a stage in a process of the pool."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run_stage(job, name)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_stage(job, name):
    """Run one stage, or take over what it found when it was run before; its result goes to <stage>/result.json."""
    path, place = result_of(job, name), f"[{list(STAGES).index(name) + 1}/{len(STAGES)}]"
    title = f"\033[1m{place} {name}\033[0m" if sys.stdout.isatty() else f"{place} {name}"
    if path.exists():
        job.results[name] = read_json(path)
        print(f"{title}: done before, kept", flush=True)
        return
    print(f"{title}: {STAGES[name].__doc__.splitlines()[0]}", flush=True)
    started = time.perf_counter()
    result = STAGES[name](job)
    job.run(name)  # its folder, which a stage that writes nothing else has not made
    write_atomically(path, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    job.results[name] = read_json(path)
    seconds = time.perf_counter() - started
    # The clock has a file of its own: the rest is the same every time.
    with open(job.out / "timing.jsonl", "a") as clock:
        clock.write(json.dumps({"stage": name, "seconds": round(seconds, 1)}) + "\n")
    print(f"{title}: {seconds:.1f} s", flush=True)


def result_of(job, name):
    """Where a stage's result stands."""
    return job.out / name / "result.json"


def read_json(path):
    """What a JSON file of this job holds; ValueError, saying what to do, where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and give the same command again.") from None
