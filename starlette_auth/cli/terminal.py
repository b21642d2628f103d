"""Terminal output and prompts."""

import re
import sys
from collections.abc import Callable

#: What an error may quote of a database URL: user and password, or the text behind a colon that is no port.
CREDENTIALS = re.compile(r"""(?<=://)[^/@:\s]*:.*(?=@)|(?<=integer value as )(['"]).*\1""")


class CommandError(Exception):
    """An error of a command. Its message is printed as one line, without a traceback."""


def show_progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}\033[K")
        sys.stderr.flush()


def ask(
    question: str,
    read: Callable[[str], str] = input,
    *,
    fix: str = "Use --noinput with --username and STARLETTE_AUTH_PASSWORD.",
) -> str:
    """Returns the answer to a question. Without a terminal it raises CommandError, which says `fix`."""
    try:
        return read(question)
    except EOFError:
        raise CommandError(f"There is no terminal for the prompt. {fix}") from None


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def print_error(text: str) -> int:
    """Prints an error on one line, without the credentials of a URL, and returns the exit status.

    Errors of the command line are kept in logs of builds and deployments, where others can read them.
    """
    sys.stderr.write(CREDENTIALS.sub("…", " ".join(text.split())) + "\n")
    return 1
