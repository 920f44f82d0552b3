"""What the command lines share: flags made from a commented dataclass, one sentence in place of a traceback."""

import argparse
import sys
from dataclasses import replace


def command(main, settings, presets=None):
    """Read the command line into `settings`, a dataclass type (tyro makes flags and help), and call `main(settings)`.

    presets: {name: {field: value}}: what `--preset name` and `--quick` change in the defaults before the other flags
    are read, so that an explicit flag always wins and `--preset name --help` shows that preset's own values.
    An error that a user can cause (a bad value, a missing file, a full disk, a loss that became NaN) ends the program
    with one sentence and exit status 2; anything else is a fault of ours and keeps its traceback.
    """
    import tyro

    from minigrad import DeviceError
    from minigrad.serialization import CheckpointError

    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset")
    early.add_argument("--quick", action="store_true")
    known, _ = early.parse_known_args()
    changes = {}
    for name in filter(None, [known.preset, "quick" if known.quick else None]):
        changes.update((presets or {}).get(name, {}))
    try:
        return main(tyro.cli(settings, default=replace(settings(), **changes)))
    except (ValueError, OSError, FloatingPointError, CheckpointError, DeviceError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        sys.exit(130)
