"""The commands `tokens`: the API tokens of a user."""

import argparse
import getpass
import sys
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from ..auth import Auth
from ..core.translation import format_time_since
from ..users.models import User
from .accounts import find_user, no_user
from .terminal import CommandError, ask, print_error, print_line


class Token(Protocol):
    """An `APIToken`."""

    id: int
    name: str
    hint: str
    scopes: tuple[str, ...] | None
    expires: int
    last_used: int | None
    last_address: str
    token: str | None


@runtime_checkable
class TokenFeature(Protocol):
    """The feature `APITokens`, which this module does not import: most commands do not need its pages."""

    format: Any
    create: Any
    list: Any
    revoke: Any
    revoke_all: Any
    check: Any


def add_token_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    tokens = commands.add_parser("tokens", help="list, create, revoke or check API tokens")
    verbs = tokens.add_subparsers(title="commands", required=True, metavar="COMMAND")

    verb = verbs.add_parser("list", help="list the tokens of a user", parents=[common])
    verb.add_argument("username")
    verb.set_defaults(command=_list, ask=_ask_nothing)

    verb = verbs.add_parser("create", help="create a token and print it", parents=[common])
    verb.add_argument("username")
    verb.add_argument("--name", required=True, help="what the token is for")
    verb.add_argument(
        "--scope", action="append", metavar="PERMISSION", help="a permission; may be repeated (default: all)"
    )
    verb.add_argument("--days", type=int, help="the number of days until the token expires")
    verb.set_defaults(command=_create, ask=_ask_nothing)

    verb = verbs.add_parser("revoke", help="revoke some or all tokens of a user", parents=[common])
    verb.add_argument("username")
    verb.add_argument("ids", metavar="ID", nargs="*", type=int, default=[], help="an ID printed by `tokens list`")
    verb.add_argument("--all", action="store_true", help="all tokens of the user")
    verb.set_defaults(command=_revoke, ask=_check_selection, error=verb.error)

    verb = verbs.add_parser("check", help="tell whose token it is; reads it from the prompt or stdin", parents=[common])
    verb.set_defaults(command=_check, ask=_ask_for_token)


async def _list(auth: Auth, options: argparse.Namespace) -> None:
    user = await _user(auth, options)
    tokens = await _feature(auth).list(user)
    for token in tokens:
        print_line(_describe(auth, token))
    if not tokens:
        print_line(f"{user.username} has no tokens.")


async def _create(auth: Auth, options: argparse.Namespace) -> None:
    tokens, user = _feature(auth), await _user(auth, options)
    expires = None
    if options.days is not None:  # `create` refuses 0 and the largest number, too
        expires = timedelta(days=max(0, min(options.days, timedelta.max.days)))
    token = await tokens.create(user, options.name, scopes=options.scope, expires=expires)
    print_error(f"Created the token {token.id} of {user.username}. It is printed only once:")
    print_line(token.token or "")


async def _revoke(auth: Auth, options: argparse.Namespace) -> None:
    tokens, user = _feature(auth), await _user(auth, options)
    if options.all:
        print_line(f"Revoked {await tokens.revoke_all(user)} tokens of {user.username}.")
        return
    missing = [str(number) for number in options.ids if not await tokens.revoke(user, number)]
    if missing:
        raise CommandError(
            f"{user.username} has no token {', '.join(missing)}. Run `tokens list {user.username}` to see the IDs."
        )
    print_line(f"Revoked {len(options.ids)} tokens of {user.username}.")


async def _check(auth: Auth, options: argparse.Namespace) -> None:
    tokens = _feature(auth)
    match = await tokens.check(options.token)
    if match is None:
        reason = "is unknown or has expired, or its owner is not active"
        if not tokens.format.is_valid(options.token):
            reason = f"does not have the format of this site, {tokens.format.prefix}… with the right checksum"
        raise CommandError(f"The token {reason}. Create another one with `tokens create`.")
    user, token = match
    print_line(f"A valid token of {user.username}:\n{_describe(auth, token)}")


def _describe(auth: Auth, token: Token) -> str:
    now = int(auth.clock())
    used = f"last used {format_time_since(now - token.last_used)}" if token.last_used else "not used"
    address = f" from {token.last_address}" if token.last_address else ""
    scopes = "all permissions" if token.scopes is None else " ".join(token.scopes) or "no permissions"
    days = -((now - token.expires) // (24 * 60 * 60))
    end = f"expires within {days} days" if token.expires > now else "expired"
    return f"{token.id}  {token.hint}…  {token.name}, {scopes}, {end}, {used}{address}"


def _feature(auth: Auth) -> TokenFeature:
    for feature in auth.features:
        if isinstance(feature, TokenFeature):
            return feature
    raise CommandError(
        "This Auth has no APITokens(…) in its features. Pass --app MODULE:ATTRIBUTE with the Auth that has them."
    )


async def _user(auth: Auth, options: argparse.Namespace) -> User:
    user = await find_user(auth, options.username)
    if user is None:
        raise no_user(options.username)
    return user


def _check_selection(auth: Auth, options: argparse.Namespace) -> None:
    if bool(options.ids) is options.all:
        options.error("say which tokens to revoke: `tokens revoke USERNAME ID …` or `tokens revoke USERNAME --all`")


def _ask_for_token(auth: Auth, options: argparse.Namespace) -> None:
    """Reads the token from the terminal or from stdin. Other users of the machine could read an argument."""
    options.token = (ask("Token: ", getpass.getpass) if sys.stdin.isatty() else sys.stdin.readline()).strip()


def _ask_nothing(auth: Auth, options: argparse.Namespace) -> None:
    """Does nothing: the command needs no input."""
