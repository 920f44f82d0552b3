"""Registered rows: what a row claims, how it is measured and when it counts as reproduced, fixed before its test is run.

A row is tuned on worlds 1 to 3. Then `register` writes its claim, its criterion, all its settings and the commit of the code
into registered.json, and that file is committed. Only a registered row may be measured on the test worlds, and only with the
registered settings, claim and criterion. `publish` adds a row's result to results.json once all test worlds are measured. A row
that is changed afterwards becomes a new version beside the old one.

The digest of a registration is the SHA-256 of its JSON. The table prints it, and every measurement holds it.
"""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chapters.ch10.headlines.experiment import Headline, Row, claim_and_criterion
from chapters.ch10.headlines.settings import Models
from chapters.support.json_files import read_object, write_result

TEST_WORLDS = 100, 101, 102, 103, 104
REGISTERED, RESULTS, PUBLISHED = (
    Path(__file__).with_name(name) for name in ("registered.json", "results.json", "published.svg")
)
ADVICE = "restore it from the repository; a changed row needs a version of its own, by --register"


def digest(registration: dict[str, Any]) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a registration."""
    return hashlib.sha256(json.dumps(registration, sort_keys=True).encode()).hexdigest()[:12]


def stored(path: Path) -> dict[str, Any]:
    """The content of registered.json or results.json; {} before anything is registered."""
    return read_object(path, ADVICE) if path.exists() else {}


def registrations(row: Row, path: Path = REGISTERED) -> list[dict[str, Any]]:
    """All versions of a row's registration, the newest last."""
    return stored(path).get(row.name, [])


def all_registrations(path: Path = REGISTERED) -> dict[str, dict[str, Any]]:
    """{digest: registration} of all versions of all rows."""
    return {digest(version): version for versions in stored(path).values() for version in versions}


def published_results(registered: Path = REGISTERED, results: Path = RESULTS) -> tuple[dict[str, Any], dict[str, Any]]:
    """({digest: registration}, {digest: result}) of all published results.

    Raises ValueError if a result's registration is missing, because registered.json was changed afterwards.
    """
    known, measured = all_registrations(registered), stored(results)
    if missing := [f"{name} ({result['row']})" for name, result in measured.items() if name not in known]:
        lacking = f"{registered} lacks {', '.join(missing)}"
        raise ValueError(f"headlines: expected a registration for each result, {lacking}; {ADVICE}")
    return known, measured


def settings_of(row: Row, settings: Any, models: Models) -> dict[str, Any]:
    """A row's settings and those of the shared models, without the sizes that the row does not use, as JSON."""
    others = {"main", "small", "large"} - set(row.sizes)
    shared = {name: value for name, value in asdict(models).items() if name.split("_")[-1] not in others}
    return json.loads(json.dumps({row.name: asdict(settings), "models": shared}, default=str))


def register(row: Row, settings: Any, models: Models, path: Path = REGISTERED) -> dict[str, Any]:
    """Append a version of the row to registered.json, with the commit of the code as it is now.

    Raises ValueError if the code differs from that commit, or if the row is already registered like this.
    """
    versions = registrations(row, path)
    registration = {
        "version": len(versions) + 1,
        **claim_and_criterion(row),
        "worlds": list(TEST_WORLDS),
        "seeds": "each world's number",
        "settings": settings_of(row, settings, models),
        "commit": commit_of_the_code(path),
    }
    if versions and all(versions[-1][name] == registration[name] for name in ("claim", "criterion", "settings", "commit")):
        raise ValueError(f"--register: {row.name} is already registered like this, as version {len(versions)}")
    write_result(path, stored(path) | {row.name: [*versions, registration]})
    return registration


def commit_of_the_code(path: Path) -> str:
    """The commit in which the code stands as it is, apart from registered.json, results.json and its figure."""

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(["git", *arguments], cwd=path.parent, check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError):
            raise ValueError("--register: expected a git checkout of minigrad, which records the commit, got none") from None

    changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=normal").splitlines()]
    changed = [name for name in changed if Path(name).name not in (REGISTERED.name, RESULTS.name, PUBLISHED.name)]
    if changed:
        raise ValueError(f"--register: expected committed code, got changes in {', '.join(changed)}; commit them first")
    return git("rev-parse", "HEAD").strip()


def checked(row: Row, settings: Any, models: Models, worlds: Sequence[int], path: Path = REGISTERED) -> str | None:
    """The digest of the row's newest registration if one of the worlds is a test world, else None.

    Raises ValueError if such a row is not registered, or registered with other settings.
    """
    tested = [world for world in worlds if world in TEST_WORLDS]
    if not tested:
        return None
    versions = registrations(row, path)
    if not versions:
        raise ValueError(
            f"headlines: world {tested[0]} is for tests of registered rows, and {row.name} is not one; tune on worlds 1 to 3"
        )
    ours, theirs = settings_of(row, settings, models), versions[-1]["settings"]
    if ours != theirs:
        name = next(iter(differences(ours, theirs)), "")
        raise ValueError(
            f"headlines: world {tested[0]} is for tests with the registered settings, and {name} differs; tune on worlds 1 to 3"
        )
    if claim_and_criterion(row) != {name: versions[-1][name] for name in ("claim", "criterion")}:
        raise ValueError(
            f"headlines: world {tested[0]} is for tests of the registered claim and criterion of {row.name}, and ours differ; "
            "register a new version"
        )
    return digest(versions[-1])


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """The dotted names of the entries in which two JSON objects differ."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return [] if ours == theirs else [prefix]
    return [d for name in ours | theirs for d in differences(ours.get(name), theirs.get(name), f"{prefix}.{name}".strip("."))]


def publish(headline: Headline, registered: str, path: Path = RESULTS) -> None:
    """Add the result of a registered row on all test worlds to results.json; the results of other versions stay.

    Raises ValueError if this registration already has another result there.
    """
    results = stored(path)
    quantities = {name: asdict(summary) for name, summary in headline.quantities.items()}
    result = {"row": headline.row.name, "verdict": headline.verdict, "quantities": quantities}
    if results.get(registered, result) != result:
        raise ValueError(f"headlines: {registered} already has another result in {path}; register a new version")
    write_result(path, results | {registered: result})
