"""Runs the Python code of a Markdown document from its first block to its last, in one namespace.

A comment that begins with `<!-- python` holds code that readers do not see: what a block needs, and what it must do.
Blocks may wait at the top level. An error in a block is shown with its line in the document.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FENCE = re.compile(r"(?ms)^(?:```(\w*)[^\n]*\n(.*?)^```$|<!-- python\n(.*?)^-->$)")


class Block(NamedTuple):
    language: str  # "" for a block without one
    code: str
    line: int  # of the document, on which the code begins
    is_hidden: bool = False


def blocks_of(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        if match[3] is not None:
            yield Block("python", match[3], line, is_hidden=True)
        else:
            yield Block(match[1], match[2], line)


def code_of(path: Path, language: str) -> list[str]:
    """Returns the code of each visible block in a language."""
    return [block.code for block in blocks_of(path) if block.language == language and not block.is_hidden]


async def run(path: Path) -> int:
    """Runs the document, and returns the number of visible blocks that were run."""
    namespace: dict[str, Any] = {"__name__": path.stem.replace("-", "_")}
    count = 0
    for block in blocks_of(path):
        if block.language != "python":
            continue
        # Empty lines before the code give each of its lines the number that it has in the document.
        source = "\n" * (block.line - 1) + block.code
        code = compile(source, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, namespace)
        if inspect.iscoroutine(result):
            await result
        count += not block.is_hidden
    return count
