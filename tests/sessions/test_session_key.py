"""The key of a session is not for the application to set."""

from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import SessionBase

from ..conftest import DJANGO, ON_SERVER, PASSWORD, client_of, name_of, post_login, with_store
from ..support.apps import make_app


@pytest.mark.parametrize("kind", ["cookie", *ON_SERVER, *DJANGO, "django cookie"], ids=name_of)
@pytest.mark.parametrize("name", ["session_key", "next_key", "stored_key", "key_to_delete", "public_id", "user_id"])
async def test_an_application_cannot_choose_whose_session_it_writes_or_deletes(
    kind: str, name: str, tmp_path: Path
) -> None:
    async def choose(request: Request) -> Response:
        with pytest.raises(AttributeError):
            setattr(request.session, name, request.query_params["key"])
        with pytest.raises(AttributeError):
            delattr(request.session, name)
        request.session["mallory"] = "was here"
        return PlainTextResponse("")

    async with with_store(kind, tmp_path) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth, Route("/choose", choose))
        async with client_of(app) as victim, client_of(app) as mallory, client_of(app) as newcomer:
            await post_login(victim)
            await mallory.get("/remember?a=1")
            key = victim.cookies[auth.cookie.name]
            for client in (mallory, newcomer):  # with a stored session and with none
                assert (await client.get("/choose", params={"key": key})).status_code == 200
                assert client.cookies[auth.cookie.name] != key
                answer = (await client.get("/whoami")).json()
                assert (answer["username"], answer["session"]["mallory"]) == ("", "was here")
            answer = (await victim.get("/whoami")).json()
            assert (answer["username"], answer["session"]) == ("ann", {})


def test_the_message_about_a_session_key_names_the_fix() -> None:
    session = SessionBase({"a": 1}, session_key="k")
    with pytest.raises(AttributeError, match=r"session_key is read-only.*request\.session\.cycle_key\(\)"):
        session.session_key = "another"  # type: ignore[assignment]
    assert session.session_key == "k"
    assert SessionBase().session_key is None
