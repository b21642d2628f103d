"""Prints pip constraints: the lowest version that pyproject.toml allows of each package that we need to run."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = {
    name: requirements
    for name, requirements in project["optional-dependencies"].items()
    if name not in ("bench", "dev") and not name.startswith("example")
}
for requirement in [*project["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]:
    match = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement)
    if match is None:
        sys.exit(f"{requirement!r} has no lowest version. Write it with >=.")
    sys.stdout.write(f"{match[1]}=={match[2]}\n")
