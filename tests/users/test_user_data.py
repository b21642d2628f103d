"""Whatever turns a User into data leaves out the password hash and the permissions."""

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from typing import Any

import pydantic
import pydantic_core
import pytest
import sqlalchemy as sa
from databases import Database
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from starlette.requests import Request

from starlette_auth import Auth, ImproperlyConfigured, Tables, User, lifespan, middleware, user_columns
from starlette_auth.testing import log_in

from ..conftest import PASSWORD, SECRET_KEY, client_of, installed, with_tables

HASH, PERMISSION = "argon2$a-secret-hash", "polls.a_permission"


@dataclass(kw_only=True, eq=False)
class Customer(User):
    phone: str = ""


@dataclass
class Plain(User):
    """A dataclass without `kw_only` and `eq=False`."""

    number: int = 0


@dataclass(kw_only=True, eq=False)
class VIP(Customer):
    level: int = 1


@dataclass(kw_only=True, eq=False, slots=True)
class Slotted(User):
    phone: str = ""


@dataclass(kw_only=True, eq=False)
class Initialised(User):
    region: InitVar[str] = "EU"
    label: str = ""

    def __post_init__(self, password: str, region: str) -> None:
        super().__post_init__(password)
        self.label = f"{self.username} in {region}"


@dataclass(kw_only=True, eq=False)
class WithoutSuper(User):
    label: str = ""

    def __post_init__(self, password: str) -> None:
        self.label = "set"


@pydantic.dataclasses.dataclass(kw_only=True, eq=False)
class Validated(User):
    phone: str = ""


CLASSES: list[type[User]] = [User, Customer, Plain, VIP, Slotted, Initialised, WithoutSuper, Validated]


class Answer(pydantic.BaseModel):
    user: User
    anything: Any = None


class AnswerWithAttributes(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(from_attributes=True)
    id: int
    username: str


def make_user(kind: type[User]) -> User:
    user = kind(id=1, username="ann", password=HASH)
    user.permission_json = (json.dumps([PERMISSION]), json.dumps([PERMISSION]))
    assert user.has_perm(PERMISSION)
    return user


SERIALIZERS: dict[str, Callable[[User], object]] = {
    "repr": repr,
    "str": str,
    "asdict": dataclasses.asdict,
    "astuple": dataclasses.astuple,
    "fields": lambda user: [(field.name, getattr(user, field.name)) for field in dataclasses.fields(user)],
    "vars": vars,
    "json with vars": lambda user: json.dumps(user, default=vars),
    "TypeAdapter": lambda user: pydantic.TypeAdapter(type(user)).dump_json(user),
    "TypeAdapter in Python": lambda user: pydantic.TypeAdapter(type(user)).dump_python(user),
    "TypeAdapter of User": lambda user: pydantic.TypeAdapter(User).dump_json(user, warnings=False),
    "TypeAdapter of Any": lambda user: pydantic.TypeAdapter(Any).dump_json(user),
    "TypeAdapter of a list": lambda user: pydantic.TypeAdapter(list[User | None]).dump_json([user], warnings=False),
    "RootModel": lambda user: pydantic.RootModel[Any](user).model_dump_json(),
    "field of a model": lambda user: Answer(user=user, anything=[user]).model_dump_json(),
    "field of a model in Python": lambda user: Answer(user=user, anything=[user]).model_dump(),
    "from_attributes": lambda user: AnswerWithAttributes.model_validate(user).model_dump(),
    "pydantic_core": pydantic_core.to_json,
    "pydantic_core in Python": pydantic_core.to_jsonable_python,
    "jsonable_encoder": jsonable_encoder,
    "jsonable_encoder of vars": lambda user: jsonable_encoder(vars(user)),
}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_a_user_as_data_holds_neither_the_hash_nor_the_permissions(kind: type[User], serializer: str) -> None:
    data = str(SERIALIZERS[serializer](make_user(kind)))
    assert HASH not in data
    assert PERMISSION not in data
    assert "password" not in data
    assert "permission" not in data


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_no_schema_names_the_password_or_the_permissions(kind: type[User], mode: Any) -> None:
    schema = json.dumps(pydantic.TypeAdapter(kind).json_schema(mode=mode))
    assert "username" in schema
    assert "password" not in schema
    assert "permission" not in schema
    nested = json.dumps(pydantic.create_model("Page", users=list[kind]).model_json_schema(mode=mode))  # type: ignore[valid-type]
    assert "username" in nested
    assert "password" not in nested


@pytest.mark.parametrize("kind", CLASSES)
def test_copies_keep_the_hash_and_the_permissions(kind: type[User]) -> None:
    user = make_user(kind)
    pickles = [pickle.loads(pickle.dumps(user, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for copied in [copy.copy(user), copy.deepcopy(user), *pickles]:
        assert type(copied) is kind
        assert copied == user
        assert copied.password == HASH
        assert copied.has_perm(PERMISSION)
        assert vars(copied) == vars(user)


@pytest.mark.parametrize("kind", CLASSES)
def test_replace_keeps_or_changes_the_hash(kind: type[User]) -> None:
    user = make_user(kind)
    assert dataclasses.replace(user, email="ann@example.org").password == HASH
    assert dataclasses.replace(user, password="another").password == "another"


@pytest.mark.parametrize("kind", CLASSES)
def test_the_hash_is_an_attribute_that_can_be_set(kind: type[User]) -> None:
    user = kind(id=1, username="ann")
    assert user.password == ""
    assert user.get_all_permissions() == set()
    user.password = "another"
    assert user.password == "another"
    assert "another" not in str(vars(user))


def test_a_post_init_runs_after_the_hash_is_set() -> None:
    user = Initialised(id=1, username="ann", password=HASH, region="US")
    assert (user.label, user.password) == ("ann in US", HASH)
    assert (WithoutSuper(id=1, username="ann", password=HASH).label) == "set"


def test_a_post_init_that_forgets_the_password_is_refused_with_the_fix() -> None:
    fix = r"Forgetful.__post_init__ .*def __post_init__\(self, password: str\).*super\(\)"
    with pytest.raises(ImproperlyConfigured, match=fix):

        @dataclass(kw_only=True, eq=False)
        class Forgetful(User):
            def __post_init__(self) -> None: ...  # type: ignore[override]

    class Mixin:
        def __post_init__(self) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=fix):
        type("Forgetful", (Mixin, User), {})

    with pytest.raises(ImproperlyConfigured, match=fix):

        @dataclass(kw_only=True, eq=False)
        class Forgetful(User):  # type: ignore[no-redef]
            region: InitVar[str] = ""

            def __post_init__(self, region: str) -> None: ...  # type: ignore[override]


def test_a_post_init_may_take_all_arguments() -> None:
    @dataclass(kw_only=True, eq=False)
    class Lenient(User):
        def __post_init__(self, *arguments: Any) -> None:
            super().__post_init__(*arguments)

    assert Lenient(id=1, username="ann", password=HASH).password == HASH


def test_a_user_class_with_its_own_password_is_refused(tmp_path: Any) -> None:
    @dataclass(kw_only=True, eq=False)
    class Field(User):
        password: str = ""

    @dataclass(kw_only=True, eq=False)
    class Argument(User):
        password: InitVar[str] = "x"

    for kind in (Field, Argument):
        with pytest.raises(ImproperlyConfigured, match=f"Remove `password` from class {kind.__name__}"):
            Auth(Database(f"sqlite:///{tmp_path}/x"), secret_key=SECRET_KEY, user_class=kind)


@with_tables
@pytest.mark.parametrize("kind", [User, Customer, Initialised, WithoutSuper])
async def test_fastapi_sends_and_documents_neither_the_hash_nor_the_permissions(
    database: Database, kind: type[User]
) -> None:
    options: dict[str, Any] = {}
    if kind is Customer:
        table = sa.Table("customer", sa.MetaData(), *user_columns(), sa.Column("phone", sa.String(20), default="112"))
        options["tables"] = Tables(user=table)

    async def untyped(request: Request):  # type: ignore[no-untyped-def]
        return request.user

    async def nested(request: Request) -> Any:
        return {"users": [request.user], "me": request.user}

    async def answer(request: Request) -> Any:
        return {"user": request.user, "anything": request.user}

    async def typed(request: Request) -> Any:
        assert request.user.has_perm("polls.add_vote")
        return request.user

    async def encoded(request: Request) -> JSONResponse:
        return JSONResponse(jsonable_encoder({"user": request.user, "data": dataclasses.asdict(request.user)}))

    async def received(user: Any) -> None: ...

    typed.__annotations__["return"] = kind
    received.__annotations__["user"] = kind

    async with installed(database, user_class=kind, **options) as auth:
        for separate in (True, False):
            app = FastAPI(
                middleware=middleware(auth),
                lifespan=lifespan(auth, check_routes=False),  # it refuses a user from the client
                separate_input_output_schemas=separate,
            )
            app.get("/untyped")(untyped)
            app.get("/typed")(typed)
            app.get("/nested")(nested)
            app.get("/model", response_model=kind)(untyped)
            app.get("/list", response_model=dict[str, list[kind] | kind])(nested)  # type: ignore[valid-type]
            app.get("/answer", response_model=Answer)(answer)
            app.get("/encoded")(encoded)
            app.post("/received")(received)
            name = f"ann{separate}"
            user = await auth.users.create_user(name, "ann@example.org", PASSWORD)
            await auth.users.create_permission("polls.add_vote")
            await auth.users.grant(user, "polls.add_vote")
            async with client_of(app) as client:
                await log_in(client, user, auth)
                for path in ("untyped", "typed", "nested", "model", "list", "answer", "encoded"):
                    response = await client.get(f"/{path}")
                    assert response.status_code == 200, response.text
                    assert "ann@example.org" in response.text
                    assert user.password not in response.text
                    for word in ("password", "add_vote", "permission"):
                        assert word not in response.text
                schema = (await client.get("/openapi.json")).text
                assert '"date_joined"' in schema
                assert "password" not in schema
                assert "permission" not in schema
