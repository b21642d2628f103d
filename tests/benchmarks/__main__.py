"""The command line: `python -m tests.benchmarks --quick --markdown report.md --json results.json`."""

import json
import signal
import sys
import time
from pathlib import Path

from .arguments import arguments
from .compare import compare
from .errors import CannotMeasure
from .report import report

try:
    from .run import run
except ModuleNotFoundError as error:
    sys.exit(f'{error.name} is missing. Run `pip install -e ".[bench]"`.')


BEGUN = time.monotonic()


def say(line: str) -> None:
    print(f"{time.monotonic() - BEGUN:5.0f} s  {line}", file=sys.stderr, flush=True)


def write(file: Path | None, text: str) -> None:
    try:
        if file is not None:
            file.write_text(text)
    except OSError as error:
        raise CannotMeasure(f"{file} cannot be written: {error.strerror}. Name another file.") from error


def main() -> int:
    chosen = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it leaves nothing behind either
    try:
        for file in (chosen.json, chosen.markdown):
            write(file, "")  # what cannot be kept is not worth to be measured
        results = run(chosen, say)
        shown = report(results) + (f"\n{compare(chosen.compare, results)}" if chosen.compare else "")
        print(shown)
        write(chosen.json, json.dumps(results, indent=1))
        write(chosen.markdown, shown)
    except CannotMeasure as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. What was made for it is gone.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
