"""`python -m chapters.world`: a sample page of each kind of document, and a sample instruction of each family."""

import argparse

from chapters.world import DOCUMENT_KINDS, FAMILIES, LABELS, World
from kernels.terminal import guard_streams, whole_number


def main(seed: int) -> None:
    world = World(seed)
    for kind in DOCUMENT_KINDS:
        print(f"── {kind} {'─' * (70 - len(kind))}\n{world.document(kind, seed)}\n")
    for name, family in FAMILIES.items():
        split = "test" if family.trained else "test_families"
        task = world.instructions(split, 1, seed, families=[name])[0]
        print(f"── {name} ({split}) {'─' * (66 - len(name) - len(split))}")
        print("\n".join(filter(None, [task.instruction, task.input, f"  -> {task.output}"])))
    print("── snippets " + "─" * 60)
    for text, label in world.snippets("train", 3, seed):
        print(f"{LABELS[label]}: …{text[-60:]!r}")


if __name__ == "__main__":
    guard_streams()
    parser = argparse.ArgumentParser(
        prog="python -m chapters.world", description="Print a sample of everything in the little world."
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of the world and of its pages [0]")
    main(parser.parse_args().seed)
