"""The pytest plugin: a test for each row of the assessment, and the table at the end."""

import asyncio
import signal
import textwrap
import traceback
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from ..django.project import DjangoProject
from .application import AssessmentError, Target, load
from .headers import complete_line
from .results import Result, Row, failed
from .rows import BESIDE_DJANGO, CHAPTERS, ROWS

WIDTH = 116
INDENT = " " * 18
COLOURS = {"pass": "green", "fail": "red", "n/a": "light", "manual": "yellow"}
# The category, the letter and the word of pytest for each result. A failure above the level does not count.
WORDS = {
    "pass": ("passed", ".", "PASS"),
    "fail": ("failed", "F", "FAIL"),
    "n/a": ("n/a", "-", "N/A"),
    "manual": ("manual", "?", "MANUAL"),
    "above": ("failed above the level", "f", "FAIL (above the level)"),
}


class RowItem(pytest.Item):
    """The test of one row."""

    def __init__(self, *, row: Row, assessment: "Assessment", **options: Any) -> None:
        super().__init__(**options)
        self.row = row
        self.assessment = assessment
        self.result: Result | None = None
        self.error = ""

    def runtest(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # the filters of a test suite are not for this
            try:
                self.result = self.assessment.run(self.row)
            except Exception as error:
                self.error = traceback.format_exc()
                text = f"the check was stopped by {type(error).__name__}: {error}"
                self.result = failed(text, "See the traceback with --tb=short.")

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, f"{self.row.id} {self.row.requirement}"


class Assessment:
    """Collects the rows in place of tests, runs them against one running application, and prints the table."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.name: str = config.getoption("asvs")
        self.level: int = config.getoption("asvs_level")
        self.items: list[RowItem] = []
        self.target: Target | None = None
        self.runner: asyncio.Runner | None = None
        if config.option.tbstyle == "auto":
            config.option.tbstyle = "no"  # the table has the reasons
        if config.option.reportchars == "fE":
            config.option.reportchars = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                app, auth, prefix = load(self.name)
        except AssessmentError as error:
            raise pytest.UsageError(f"--asvs: {error}") from None
        self.target = Target(app, auth, prefix=prefix, level=self.level)
        items = [
            RowItem.from_parent(session, name=f"V{row.id}", nodeid=f"asvs::V{row.id}", row=row, assessment=self)
            for row in ROWS
        ]
        hook = self.config.hook
        hook.pytest_collectreport(report=pytest.CollectReport("asvs", "passed", None, [*items]))
        session.items = [*items]
        hook.pytest_collection_modifyitems(session=session, config=self.config, items=session.items)
        hook.pytest_collection_finish(session=session)
        session.testscollected = len(session.items)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        if self.config.option.collectonly or self.target is None:
            return (yield)
        with asyncio.Runner() as self.runner, _terminated_as_interrupted():
            running: AbstractAsyncContextManager[Target] = self.target.running()
            try:
                self.runner.run(running.__aenter__())
            except AssessmentError as error:
                raise pytest.UsageError(f"--asvs: {self.name}: {error}") from None
            try:
                return (yield)
            finally:
                self.runner.run(running.__aexit__(None, None, None))

    def run(self, row: Row) -> Result:
        assert self.runner is not None  # noqa: S101  the loop of tests has set it
        assert self.target is not None  # noqa: S101  the collection has set it
        return self.runner.run(judge(row, self.target))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if isinstance(item, RowItem) and item.result is not None and call.when == "call":
            self.items.append(item)
            kind = self._kind(item)
            report.outcome = "failed" if kind == "fail" else "passed" if kind == "pass" else "skipped"
            report.longrepr = item.error or f"{item.result.why}\n{item.result.fix}" if kind == "fail" else None
            report.asvs = kind  # type: ignore[attr-defined]
        return report

    def _kind(self, item: RowItem) -> str:
        """Returns the result of a row; "above" for a failure that does not count."""
        assert item.result is not None  # noqa: S101  the item has run
        is_above = item.row.level > self.level and item.result.status == "fail"
        return "above" if is_above else item.result.status

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        return WORDS.get(getattr(report, "asvs", ""))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.items or self.target is None:
            return
        terminalreporter.write_sep("=", f"OWASP ASVS 5.0.0: {self.name}")
        chapter = 0
        for item in self.items:
            number = int(item.row.id.partition(".")[0])
            if number != chapter:
                chapter = number
                terminalreporter.write_line(f"\nV{number} {CHAPTERS[number]}", bold=True)
            assert item.result is not None  # noqa: S101  the item has run
            lines = describe(item.row, item.result)
            terminalreporter.write(lines[0][:10])
            terminalreporter.write(lines[0][10:18], **{COLOURS[item.result.status]: True})
            terminalreporter.write_line("\n".join([lines[0][18:], *lines[1:]]))
        results = [item.result for item in self.items if item.result is not None]
        if line := complete_line(self.target, results):
            terminalreporter.write_line(
                f"\nFor the security headers: from starlette_auth import SecurityHeaders, and\n{line}"
            )
        for leftover in self.target.leftovers:
            terminalreporter.write_line(f"\n{leftover}", red=True)
        terminalreporter.write_line(f"\n{self._totals()}")

    def _totals(self) -> str:
        kinds = [self._kind(item) for item in self.items]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in COLOURS)
        above = f"; above it {kinds.count('above')} fail" if "above" in kinds else ""
        return f"Up to level {self.level}: {counts}{above}. A row with manual asks a question that only you can answer."


def describe(row: Row, result: Result) -> list[str]:
    """Returns the lines of the table about a row: its number, level and result, then why, and what to set."""
    head = f"{row.id:<7} {row.level} {result.status:<6}"
    lines = _wrapped(f"{row.requirement}: {result.why}")
    lines = [f"{head:<18}{lines[0].strip()}", *lines[1:]]
    return [*lines, *_wrapped(f"→ {result.fix}")] if result.fix and result.status == "fail" else lines


def _wrapped(text: str) -> Sequence[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
    )


async def judge(row: Row, target: Target) -> Result:
    """Returns the result of a row, beside Django with what to set there."""
    result = await row.check(target)
    fix = BESIDE_DJANGO.get(row.id, "")
    if fix and result.status == "fail" and isinstance(target.auth.defaults, DjangoProject):
        return replace(result, fix=fix)
    return result


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Lets SIGTERM end the run as Ctrl+C does: the temporary users are deleted first."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
