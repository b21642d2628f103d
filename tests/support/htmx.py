"""The htmx of a page, from npm in place of its CDN."""

import functools
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from .matrix import IN_CI
from .server import ROOT

CDN = re.compile(r"https://cdn\.jsdelivr\.net/npm/(htmx\.org@[\d.]+)/([\w./]+)")


def load_htmx() -> None:
    """Loads the version that the example uses."""
    match = CDN.search((ROOT / "example_app" / "api" / "pages.py").read_text())
    assert match
    htmx(match[0])


def serve_htmx(context: BrowserContext) -> None:
    """Answers requests for htmx with the file from npm. The browser checks its `integrity`, as it does with the CDN."""
    headers = {"access-control-allow-origin": "*", "content-type": "text/javascript"}
    context.route(CDN, lambda route: route.fulfill(body=htmx(route.request.url), headers=headers))


def htmx(url: str) -> bytes:
    """Returns the file that a URL of the CDN names."""
    match = CDN.fullmatch(url)
    assert match, url
    return file_of(match[1], match[2])


def htmx_source(version: str) -> str:
    """Returns the script of the newest htmx of a version, such as "1.9"."""
    return file_of(f"htmx.org@{version}", "dist/htmx.min.js").decode()


@functools.cache
def file_of(package: str, path: str) -> bytes:
    """Returns a file of a package of npm. Skips the test where npm is missing; in CI it fails."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            npm = shutil.which("npm") or "npm"
            subprocess.run([npm, "pack", "--silent", package], cwd=folder, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            if IN_CI:
                raise
            pytest.skip(f"npm cannot load {package}: {error}")
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            file = archive.extractfile(f"package/{path}")
            assert file is not None
            return file.read()
