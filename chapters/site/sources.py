"""The files that become pages, and the order in which a reader meets them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import chapters
import kernels
import minigrad
from chapters.site.names import Source
from chapters.site.rows import Row, cuda_rows, python_rows

CHAPTERS, KERNELS, ENGINE = (Path(str(package.__file__)).parent for package in (chapters, kernels, minigrad))
NAMES = {CHAPTERS: chapters.__name__, KERNELS: kernels.__name__, ENGINE: minigrad.__name__}  # minigrad.chapters in a wheel

# Chapter 10 in the order of the book; chapters/__init__.py gives the same to readers of the source.
CHAPTER_10 = "__init__ classify sft lora exercises demonstrations comparisons reward bag_of_words ensemble".split()
CHAPTER_10 += "rollout harness ppo rlhf rloo grpo one_word dpo best_of_n frontier assess distillation constitution".split()
CHAPTER_10 += "headlines taste reflex reflex_grpo figures preference_figures".split()
TABS = "reference ladder cpu block few_rows cuda".split()  # of a kernel's folder, from the formula to the fast code
ENGINE_ORDER = "__init__ tensor engine function autograd".split()


@dataclass(frozen=True)
class File:
    """A file on a page.

    Args:
        path: of the file.
        package: the folder of chapters, kernels or minigrad, in which it lies.
        address: of its page, from the site's root.
        prefix: of its anchors, "" for the only file of a page.
    """

    path: Path
    package: Path
    address: str
    prefix: str = ""

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def name(self) -> str:
        """Its name in the checkout, such as kernels/softmax/cpu.py."""
        return (Path(self.package.name) / self.path.relative_to(self.package)).as_posix()

    @property
    def top(self) -> str:
        """Where it begins: its page, or its tab on a page of several files."""
        return f"{self.address}#{self.prefix}file" if self.prefix else self.address

    @property
    def language(self) -> str:
        return "python" if self.path.suffix == ".py" else "cuda"

    @property
    def module(self) -> str:
        inside = self.path.relative_to(self.package).with_suffix("").parts
        return ".".join([NAMES[self.package], *inside]).removesuffix(".__init__")

    @cached_property
    def source(self) -> Source | None:
        return Source(self.module, self.text, self.address, self.prefix) if self.language == "python" else None

    @cached_property
    def rows(self) -> tuple[str, list[Row]]:
        """Its first docstring or comment, and its rows."""
        return python_rows(self.text, self.source.tree) if self.source else cuda_rows(self.text)

    @cached_property
    def docstring(self) -> str:
        """The first docstring or comment."""
        return self.rows[0]


@dataclass(frozen=True)
class Page:
    """A page of one file or, in tabs, of several.

    Args:
        kind: "lesson", "kernel", "engine" or "other".
        files: the files, the first of which gives the page its title.
        chapter: of the book; None if the page belongs to none.
    """

    kind: str
    files: list[File] = field(hash=False)
    chapter: int | None = None

    @property
    def address(self) -> str:
        return self.files[0].address

    @property
    def summary(self) -> str:
        """The first sentence of its docstring, without the number of the chapter."""
        paragraph = " ".join(self.files[0].docstring.split("\n\n")[0].split())
        sentence = re.split(r"(?<=[.?]) +(?=[A-Z\"`])", paragraph)[0].rstrip(".")
        return without_chapter(sentence)

    @property
    def title(self) -> str:
        """The summary up to its colon or, if that is long, its first comma."""
        title = self.summary.split(": ")[0].removesuffix(" (LoRA)")
        return title.split(", ")[0] if len(title) > 44 else title

    @property
    def command(self) -> str:
        """What follows "python -m chapters." for a lesson, such as ch10.sft; elsewhere the full name of the module."""
        module = self.files[0].module
        return module.removesuffix(".reference") if self.kind == "kernel" else module.removeprefix(NAMES[CHAPTERS] + ".")


def without_chapter(text: str) -> str:
    """A text without the "Chapter 10, " that a lesson's docstring begins with."""
    rest = re.sub(r"^Chapter \d+(, |: )", "", text)
    return rest[:1].upper() + rest[1:]


def address_of(path: Path, package: Path) -> str:
    """chapters/ch10/sft.py is at chapters/ch10/sft.html, a package's __init__.py at the index.html of its folder."""
    inside = path.relative_to(package).with_suffix("")
    inside = inside.with_name("index") if inside.name == "__init__" else inside
    return (Path(package.name) / inside).with_suffix(".html").as_posix()


def single(path: Path, package: Path, kind: str, chapter: int | None = None) -> Page:
    return Page(kind, [File(path, package, address_of(path, package))], chapter)


def folder(path: Path, package: Path, kind: str, chapter: int | None = None, first: str = "__init__") -> Page:
    """A page for the files of a folder, in tabs."""
    address = (Path(package.name) / path.relative_to(package)).as_posix() + ".html"
    files = [file for file in path.iterdir() if file.suffix in (".py", ".cu") and file.name != "__main__.py"]
    if first != "__init__":
        files = [file for file in files if file.stem != "__init__" or len(file.read_text(encoding="utf-8")) > 200]
    order = {name: i for i, name in enumerate([first, *TABS])}
    files.sort(key=lambda file: (order.get(file.stem, len(order)), file.stem, file.suffix != ".py"))
    several = len(files) > 1
    return Page(kind, [File(file, package, address, prefix_of(file) if several else "") for file in files], chapter)


def prefix_of(path: Path) -> str:
    """The prefix of a file's anchors on a page of several: "cpu-", and "cuda.cu-" beside cuda.py's "cuda-"."""
    return (path.stem if path.suffix == ".py" else path.name) + "-"


def lessons() -> Iterator[Page]:
    """Chapters 1 to 10 and the chat, in the order of the book."""
    for path in sorted(CHAPTERS.glob("ch0*.py")):
        yield single(path, CHAPTERS, "lesson", int(path.name[2:4]))
    known = {name: i for i, name in enumerate(CHAPTER_10)}
    for chapter in (9, 10):
        inside = sorted(
            (CHAPTERS / f"ch{chapter:02}").iterdir(), key=lambda path: (known.get(path.stem, len(known)), path.name)
        )
        for path in inside:
            if path.suffix == ".py":
                yield single(path, CHAPTERS, "lesson", chapter)
            elif (path / "__init__.py").exists():
                yield folder(path, CHAPTERS, "lesson", chapter)
    yield single(CHAPTERS / "chat.py", CHAPTERS, "lesson")


def kernel_pages() -> Iterator[Page]:
    for path in sorted(KERNELS.iterdir()):
        if (path / "reference.py").exists():
            yield folder(path, KERNELS, "kernel", first="reference")


def engine_pages() -> Iterator[Page]:
    order = {name: i for i, name in enumerate(ENGINE_ORDER)}
    nested = [CHAPTERS, KERNELS]  # in a wheel
    files = [path for path in ENGINE.rglob("*.py") if not any(inner in path.parents for inner in nested)]
    for path in sorted(files, key=lambda path: (path.parent, order.get(path.stem, len(order)), path.stem)):
        yield single(path, ENGINE, "engine")


def other_pages() -> Iterator[Page]:
    """What lessons and kernels stand on: the world, the plumbing, the main job, and the kernels' machinery."""
    for path in (CHAPTERS / "__init__.py", CHAPTERS / "__main__.py", CHAPTERS / "bench" / "__init__.py"):
        yield single(path, CHAPTERS, "other")
    for name in ("world", "support", "main_job"):
        for path in sorted((CHAPTERS / name).glob("*.py")):
            if path.name != "__main__.py":
                yield single(path, CHAPTERS, "other")
    for path in sorted(KERNELS.glob("*.py")):
        yield single(path, KERNELS, "other")


def all_pages() -> list[Page]:
    return [*lessons(), *kernel_pages(), *engine_pages(), *other_pages()]
