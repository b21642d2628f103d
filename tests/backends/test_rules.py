"""Rules on objects: one condition for a query and for one object."""

import asyncio
import datetime
import decimal
import enum
import itertools
import logging
import random
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from starlette.requests import HTTPConnection

from starlette_auth import (
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    ImproperlyConfigured,
    PermissionDenied,
    Roles,
    Tables,
    User,
    user_columns,
)

from ..conftest import count_statements, installed
from ..support.databases import sync_url

VIEW, CHANGE = "shop.view_order", "shop.change_order"
AnyUser = User | AnonymousUser


class Base(DeclarativeBase):
    pass


class Kind(enum.Enum):
    PRIVATE = "private"
    SHARED = "shared"


class Order(Base):
    __tablename__ = "rule_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int | None]
    company_id: Mapped[int | None]
    email: Mapped[str] = mapped_column(sa.String(100), default="")
    kind: Mapped[Kind] = mapped_column(sa.Enum(Kind, native_enum=False, length=20), default=Kind.PRIVATE)
    total: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(10, 2), default=decimal.Decimal(1))
    placed: Mapped[datetime.date] = mapped_column(default=datetime.date(2026, 1, 1))
    seen: Mapped[datetime.datetime] = mapped_column(default=datetime.datetime(2026, 1, 1, 12, 0))
    key: Mapped[uuid.UUID] = mapped_column(default=uuid.uuid4)
    helpers: Mapped[list["Helper"]] = relationship()


class Helper(Base):
    __tablename__ = "rule_helper"
    order_id: Mapped[int] = mapped_column(sa.ForeignKey("rule_order.id"), primary_key=True)
    helper_id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(sa.String(20), default="")


class Document(Base):
    __tablename__ = "rule_document"
    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(sa.String(20))
    author_id: Mapped[int | None]
    __mapper_args__ = {"polymorphic_on": "type", "polymorphic_identity": "document"}  # noqa: RUF012


class Contract(Document):
    __tablename__ = "rule_contract"
    id: Mapped[int] = mapped_column(sa.ForeignKey("rule_document.id"), primary_key=True)
    partner_id: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "contract"}  # noqa: RUF012


class Memo(Document):
    """Is kept in the table of Document."""

    __mapper_args__ = {"polymorphic_identity": "memo"}  # noqa: RUF012


parcel = sa.Table(
    "rule_parcel",
    Base.metadata,
    sa.Column("shelf", sa.String(20), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner_id", sa.Integer),
)


@dataclass(kw_only=True, eq=False)
class Member(User):
    company_id: int | None = None


class Product(Base):
    __tablename__ = "rule_product"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(20))


class Shop:
    """An Auth whose users have a company, and the application's own connection to the same database."""

    def __init__(self, auth: Auth[Member], engine: sa.Engine) -> None:
        self.auth = auth
        self.engine = engine

    def add(self, *objects: Any) -> None:
        with Session(self.engine) as session:
            session.add_all(objects)
            session.commit()

    def all(self, model: Any) -> list[Any]:
        with Session(self.engine) as session:
            return list(session.scalars(sa.select(model).order_by(sa.inspect(model).primary_key[0])))

    def visible(self, user: AnyUser, perm: str = VIEW, model: Any = Order) -> list[Any]:
        with Session(self.engine) as session:
            return sorted(session.scalars(sa.select(model.id).where(self.auth.visible_to(user, perm, model))))

    async def allowed(self, user: AnyUser, perm: str = VIEW, model: Any = Order) -> list[Any]:
        """Returns the ids of the visible objects. `has_perm` must agree about each object."""
        visible = self.visible(user, perm, model)
        assert [obj.id for obj in self.all(model) if await self.auth.has_perm(user, perm, obj)] == visible
        return visible


def member_tables() -> Tables:
    return Tables(user=sa.Table("member", sa.MetaData(), *user_columns(), sa.Column("company_id", sa.Integer)))


@pytest.fixture
def backends() -> list[Callable[[], AuthenticationBackend]]:
    return []


@pytest.fixture
async def shop(
    database: Database, database_url: str, backends: list[Callable[[], AuthenticationBackend]]
) -> AsyncIterator[Shop]:
    engine = sa.create_engine(sync_url(database_url), poolclass=sa.pool.NullPool)
    async with installed(
        database, tables=member_tables(), user_class=Member, backends=[make() for make in backends]
    ) as auth:
        Base.metadata.create_all(engine)
        yield Shop(auth, engine)


@pytest.fixture
async def ann(shop: Shop) -> Member:
    return await shop.auth.users.create_user("ann", "ann@example.org", company_id=7)


async def fresh(shop: Shop, user: User) -> Member:
    stored = await shop.auth.users.get(user.id)
    assert stored is not None
    return stored


def own(user: Any) -> Any:
    return Order.owner_id == user.id


# One condition for both questions


async def test_a_rule_decides_about_a_query_and_about_an_object(shop: Shop, ann: Member) -> None:
    assert shop.auth.rule(VIEW, Order)(own) is own
    ben = await shop.auth.users.create_user("ben")
    shop.add(Order(id=1, owner_id=ann.id), Order(id=2, owner_id=ben.id), Order(id=3, owner_id=None))
    assert await shop.allowed(ann) == [1]
    assert await shop.allowed(ben) == [2]
    assert await shop.allowed(AnonymousUser()) == []
    assert not ann.has_perm(VIEW)
    assert not await shop.auth.has_perm(ann, VIEW)
    assert not await shop.auth.has_perm(ann, CHANGE, shop.all(Order)[0]), "there is no rule for it"
    assert not await shop.auth.has_perm(ann, VIEW, "an order")


async def test_rules_are_joined_by_or(shop: Shop, ann: Member) -> None:
    auth = shop.auth

    @auth.rule(VIEW, Order)
    @auth.rule(CHANGE, Order)
    def own(user: Any) -> Any:
        return Order.owner_id == user.id

    @auth.rule(VIEW, Order)
    def company(user: Any) -> Any:
        return Order.company_id == user.company_id

    @auth.rule(VIEW, Order)
    def helps(user: Any) -> Any:
        return Order.helpers.any(Helper.helper_id == user.id)

    @auth.rule(VIEW, Order)
    def nothing(user: Any) -> Any:
        return None

    @auth.rule(VIEW, Order)
    def never(user: Any) -> Any:
        return False

    shop.add(Order(id=1, owner_id=ann.id), Order(id=2, company_id=7), Order(id=3), Order(id=4, company_id=8))
    shop.add(Helper(order_id=3, helper_id=ann.id), Helper(order_id=4, helper_id=ann.id + 1))
    assert await shop.allowed(ann) == [1, 2, 3]
    assert await shop.allowed(ann, CHANGE) == [1]


async def test_a_rule_may_hold_for_all_rows(shop: Shop, ann: Member) -> None:
    shop.auth.rule(VIEW, Order)(lambda user: True if user.is_authenticated else Order.kind == Kind.SHARED)
    shop.add(Order(id=1), Order(id=2, kind=Kind.SHARED))
    assert await shop.allowed(ann) == [1, 2]
    assert await shop.allowed(AnonymousUser()) == [2]


#: Each condition, with the ids of the orders that ann and a visitor see.
CONDITIONS: dict[str, tuple[list[int], list[int] | None, Callable[[Any], Any]]] = {
    "enum": ([2, 4], [2, 4], lambda user: Order.kind == Kind.SHARED),
    "numeric": ([3], [3], lambda user: Order.total > decimal.Decimal("10.5")),
    "date": ([3], [3], lambda user: Order.placed >= datetime.date(2026, 6, 1)),
    "naive datetime": ([1, 2, 3], [1, 2, 3], lambda user: Order.seen < datetime.datetime(2026, 1, 1, 12, 30)),
    "uuid": ([3], [3], lambda user: Order.key == uuid.UUID(int=5)),
    "in": ([1, 2, 4], [2], lambda user: Order.owner_id.in_([user.id, 99, 100])),
    "in nothing": ([], [], lambda user: Order.owner_id.in_([])),
    "not in": ([], [], lambda user: Order.owner_id.not_in([user.id, 99])),
    "enum in": ([2, 4], [2, 4], lambda user: Order.kind.in_([Kind.SHARED])),
    "and, not": ([1], [], lambda user: sa.and_(Order.owner_id == user.id, ~Order.kind.in_([Kind.SHARED]))),
    "like": (
        [1, 2],
        [1, 2],
        lambda user: Order.email.endswith("%@example.org", autoescape=True) | Order.email.like("AN%"),
    ),
    "text": ([1, 4], [], lambda user: sa.text("rule_order.owner_id = :owner").bindparams(owner=user.id)),
    "subquery": ([2], [], lambda user: Order.id.in_(sa.select(Helper.order_id).where(Helper.helper_id == user.id))),
    "exists": ([2], [], lambda user: sa.exists().where(Helper.order_id == Order.id, Helper.helper_id == user.id)),
    "case": (
        [1, 2, 4],
        [2, 4],
        lambda user: sa.case((Order.owner_id == user.id, True), else_=Order.kind == Kind.SHARED),
    ),
    "reversed": ([1, 4], [], lambda user: user.id == Order.owner_id),
    "arithmetic": ([1, 4], None, lambda user: Order.owner_id + 1 == user.id + 1),
    "literal column": ([1, 4], [], lambda user: sa.literal_column("rule_order.owner_id") == user.id),
    "named bind": ([1, 4], [], lambda user: Order.owner_id == sa.bindparam("an.owner (of it)", user.id)),
    "lower": ([1], [], lambda user: sa.func.lower(Order.email) == sa.func.lower(user.email)),
    "true": ([1, 2, 3, 4], [1, 2, 3, 4], lambda user: sa.true()),
    "false": ([], [], lambda user: sa.false()),
}


@pytest.mark.parametrize("name", CONDITIONS)
async def test_a_rule_may_return_any_kind_of_condition(shop: Shop, ann: Member, name: str) -> None:
    for_ann, for_visitor, condition = CONDITIONS[name]
    shop.auth.rule(VIEW, Order)(condition)
    shop.add(
        Order(id=1, owner_id=ann.id, email="ANN@example.org"),
        Order(id=2, owner_id=99, kind=Kind.SHARED, email="a%@example.org"),
        Order(id=3, total=decimal.Decimal("10.51"), placed=datetime.date(2026, 6, 1), key=uuid.UUID(int=5)),
        Order(id=4, owner_id=ann.id, kind=Kind.SHARED, seen=datetime.datetime(2026, 1, 2)),
    )
    shop.add(Helper(order_id=2, helper_id=ann.id))
    assert await shop.allowed(ann) == for_ann
    if for_visitor is not None:  # None plus a number is an error in the rule
        assert await shop.allowed(AnonymousUser()) == for_visitor


async def test_thousands_of_answers_equal_membership_in_the_query(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random orders, users and combinations of rules; the answer about each object is one statement at most."""
    auth, dice = shop.auth, random.Random(5)
    users: list[AnyUser] = [AnonymousUser(), await auth.users.create_superuser("root")]
    for number in range(8):
        company = dice.choice([None, None, 1, 2])
        email = dice.choice(["", f"user{number}@example.org"])
        users.append(await auth.users.create_user(f"user{number}", email, company_id=company, is_active=number != 7))
    ids = [user.id for user in users if user.id is not None]
    orders = [
        Order(
            id=number,
            owner_id=dice.choice([None, *ids]),
            company_id=dice.choice([None, 1, 2, 3]),
            email=dice.choice(["", "user2@example.org"]),
            kind=dice.choice([*Kind]),
        )
        for number in range(1, 41)
    ]
    shop.add(*orders)
    shop.add(*(Helper(order_id=dice.randint(1, 40), helper_id=key) for key in ids))
    rules: list[Callable[[Any], Any]] = [
        own,
        lambda user: Order.company_id == user.company_id,
        lambda user: Order.email == user.email,
        lambda user: Order.kind == Kind.SHARED if user.is_authenticated else None,
        lambda user: Order.helpers.any(Helper.helper_id == user.id),
        lambda user: sa.and_(Order.company_id != user.company_id, Order.kind == Kind.SHARED),
        lambda user: Order.owner_id.in_([user.id, 2]),
        lambda user: user.username == "user3",
    ]
    stored, pairs = shop.all(Order), 0
    combinations = [*itertools.combinations(range(len(rules)), 2)]
    for number, combination in enumerate(dice.sample(combinations, 12)):
        for index in combination:
            auth.rule(f"shop.act{number}", Order)(rules[index])
        for user in users:
            visible = shop.visible(user, f"shop.act{number}")
            statements = count_statements(auth, monkeypatch)
            answers = [order.id for order in stored if await auth.has_perm(user, f"shop.act{number}", order)]
            assert answers == visible, (combination, user)
            assert len(statements) <= len(stored)
            monkeypatch.undo()
            pairs += len(stored)
    assert pairs >= 4_000


async def test_the_answer_about_an_object_is_one_statement(
    shop: Shop, ann: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.auth.rule(VIEW, Order)(own)
    shop.auth.rule(VIEW, Order)(lambda user: Order.company_id == user.company_id)
    shop.add(Order(id=1, owner_id=ann.id))
    [order] = shop.all(Order)
    root = await shop.auth.users.create_superuser("root")
    statements = count_statements(shop.auth, monkeypatch)
    assert await shop.auth.has_perm(ann, VIEW, order)
    assert len(statements) == 1
    assert statements[0].startswith("SELECT 1 AS found")
    assert await shop.auth.has_perm(root, VIEW, order)
    assert not await shop.auth.has_perm(ann, VIEW)
    assert len(statements) == 1
    shop.auth.visible_to(ann, VIEW, Order)
    assert len(statements) == 1


# Values that a user does not have


async def test_a_value_that_is_missing_equals_nothing(shop: Shop) -> None:
    """The attack: rows without an owner, a company or an address, and users who have none either."""
    auth = shop.auth
    poor = await auth.users.create_user("poor")  # no company, no address, no name
    shop.add(
        Order(id=1, owner_id=None, company_id=None, email=""), Order(id=2, owner_id=poor.id, company_id=5, email="x")
    )
    conditions: list[Callable[[Any], Any]] = [
        lambda user: Order.company_id == user.company_id,
        lambda user: user.company_id == Order.company_id,
        lambda user: Order.company_id.in_([user.company_id]),
        lambda user: Order.company_id.in_([user.company_id, None]),
        lambda user: Order.company_id == sa.func.coalesce(user.company_id, 0),
        lambda user: Order.email == user.email,
        lambda user: Order.email.in_([user.email]),
        lambda user: Order.email.startswith(user.email),
        lambda user: Order.email.contains(user.email),
        lambda user: Order.email.like(user.email),
        lambda user: sa.func.lower(Order.email) == user.email,
        lambda user: sa.func.lower(Order.email) == user.email.lower(),
        lambda user: Order.email == user.email.strip().casefold(),
        lambda user: Order.email.startswith(user.email, autoescape=True),
        lambda user: Order.email.contains(user.email.replace("_", "-"), autoescape=True),
        lambda user: Order.email.like(user.email + "%"),
        lambda user: Order.email.like("%" + user.email),
        lambda user: Order.email == user.email[:10],
        lambda user: Order.email.endswith(user.email.rpartition("@")[2]),
        lambda user: Order.email.endswith(user.email.split("@")[-1]),
        lambda user: Order.email == user.first_name,
        lambda user: Order.email == user.get_full_name(),
        lambda user: Order.id.in_(sa.select(Order.id).where(Order.company_id == user.company_id).scalar_subquery()),
        lambda user: sa.exists(sa.select(1).where(Order.company_id == user.company_id)),
        lambda user: sa.text("rule_order.email = :mail").bindparams(mail=user.email),
        lambda user: sa.or_(*(Order.company_id == key for key in [user.company_id])),
        lambda user: Order.company_id != user.company_id,
        lambda user: sa.not_(Order.company_id == user.company_id),
        lambda user: Order.company_id.not_in([user.company_id]),
        lambda user: Order.company_id.is_(user.company_id),
        lambda user: Order.company_id.is_not(user.company_id),
        lambda user: Order.company_id.is_not_distinct_from(user.company_id),
        lambda user: ~Order.company_id.is_not_distinct_from(user.company_id),
        lambda user: Order.email.is_distinct_from(user.email),
    ]
    of_visitors: list[Callable[[Any], Any]] = [
        own,
        lambda user: Order.owner_id == user.pk if hasattr(user, "pk") else Order.owner_id == user.id,
        lambda user: Order.email == user.username,
        lambda user: Order.email == user.get_username(),
        lambda user: Order.email == user.identity,
        lambda user: Order.email == user.display_name,
        lambda user: Order.seen == user.last_login,
    ]
    for number, condition in enumerate([*conditions, *of_visitors]):
        perm = f"shop.act{number}"
        auth.rule(perm, Order)(condition)
        assert await shop.allowed(AnonymousUser(), perm) == [], number
        if number < len(conditions):
            assert await shop.allowed(poor, perm) == [], number
    assert poor.company_id is None, "the rule got a copy"
    assert poor.email == ""


async def test_missing_values_are_false_in_python(shop: Shop, ann: Member) -> None:
    asked: list[Any] = []

    @shop.auth.rule(VIEW, Order)
    def careful(user: Any) -> Any:
        asked.append((bool(user.id), bool(user.company_id), user.company_id == None, repr(user.email)))  # noqa: E711
        assert type(user) in (Member, AnonymousUser)
        assert user.company_id not in (5, 7) or user.company_id == 7
        return Order.company_id == user.company_id if user.company_id else None

    shop.add(Order(id=1, company_id=7), Order(id=2))
    assert await shop.allowed(ann) == [1]
    assert await shop.allowed(AnonymousUser()) == []
    assert asked[0] == (True, True, False, "'ann@example.org'")
    assert asked[-1] == (False, False, True, "''")


async def test_a_condition_for_missing_columns_is_left_alone(shop: Shop, ann: Member) -> None:
    shop.auth.rule(VIEW, Order)(lambda user: Order.owner_id.is_(None))
    shop.add(Order(id=1, owner_id=None), Order(id=2, owner_id=ann.id))
    assert await shop.allowed(ann) == [1]
    assert await shop.allowed(AnonymousUser()) == [1]


# Who counts


async def test_superusers_see_all_and_inactive_users_nothing(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule(VIEW, Order)(lambda user: True)
    auth.rule(CHANGE, Order)(lambda user: False)
    root = await auth.users.create_superuser("root")
    shop.add(Order(id=1, owner_id=ann.id))
    assert await shop.allowed(root) == await shop.allowed(root, CHANGE) == [1]
    for user in (ann, root):
        await auth.users.update(user, is_active=False)
        assert await shop.allowed(user) == await shop.allowed(await fresh(shop, user)) == []
    assert await shop.allowed(Member(id=None, username="new")) == []


async def test_a_general_permission_holds_for_all_objects(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule(VIEW, Order)(own)
    await auth.users.create_permission(VIEW)
    shop.add(Order(id=1, owner_id=ann.id), Order(id=2))
    await auth.users.grant(ann, VIEW)
    assert await shop.allowed(await fresh(shop, ann)) == [1, 2]
    await auth.users.revoke(ann, VIEW)
    assert await shop.allowed(await fresh(shop, ann)) == [1]


class Denies(AuthenticationBackend):
    def denies(self, user: AnyUser) -> Collection[str]:
        return [VIEW] if user.username in ("ann", "root") else []


class Raises(AuthenticationBackend):
    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        if user.username in ("ann", "root") and perm == VIEW:
            raise PermissionDenied("no")
        return False


class Loads(AuthenticationBackend):
    async def load_permissions(self, conn: HTTPConnection | None, user: AnyUser) -> Collection[str]:
        await asyncio.sleep(0.001)
        return [VIEW] if user.username == "ben" else []


class Judge(AuthenticationBackend):
    """Grants and denies single objects, in Python."""

    async def has_perm(self, user: AnyUser, perm: str, obj: object = None) -> bool:
        if isinstance(obj, Order) and obj.id == 3:
            raise PermissionDenied("not this one")
        return isinstance(obj, Order) and obj.id == 2


@pytest.mark.parametrize("backends", [[Denies], [Raises], [lambda: Roles({"voters": [VIEW]}), Denies]])
async def test_a_denial_counts_more_than_a_rule(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule(VIEW, Order)(lambda user: True)
    ben, root = await auth.users.create_user("ben"), await auth.users.create_superuser("root")
    await auth.users.create_permission(VIEW)
    await auth.users.grant(ann, VIEW)
    if "voters" in auth.users.role_names:
        await auth.users.add_to_group(ann, "voters")
    ann = await fresh(shop, ann)
    shop.add(Order(id=1))
    assert await shop.allowed(ann) == []
    assert await shop.allowed(ben) == await shop.allowed(root) == [1]


@pytest.mark.parametrize("backends", [[lambda: Roles({"staff": [VIEW]})]])
async def test_a_role_holds_for_all_objects(shop: Shop, ann: Member) -> None:
    shop.auth.rule(VIEW, Order)(own)
    shop.add(Order(id=1))
    assert await shop.allowed(ann) == []
    await shop.auth.users.add_to_group(ann, "staff")
    assert await shop.allowed(await fresh(shop, ann)) == [1]


@pytest.mark.parametrize("backends", [[Loads]])
async def test_permissions_that_a_backend_loads_are_awaited_before_a_query(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule(VIEW, Order)(own)
    ben = await auth.users.create_user("ben")
    shop.add(Order(id=1, owner_id=ann.id))
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=r"await auth\.has_perm"):
            auth.visible_to(ben, VIEW, Order)
    assert await auth.has_perm(ben, VIEW)
    assert await shop.allowed(ben) == [1]


@pytest.mark.parametrize("backends", [[Judge]])
async def test_predicates_in_python_decide_beside_the_rules(
    shop: Shop, ann: Member, caplog: pytest.LogCaptureFixture
) -> None:
    auth = shop.auth
    auth.rule(VIEW, Order)(own)
    shop.add(*(Order(id=number, owner_id=ann.id if number in (1, 3) else None) for number in (1, 2, 3, 4)))
    assert [await auth.has_perm(ann, VIEW, order) for order in shop.all(Order)] == [True, True, False, False]
    with caplog.at_level(logging.WARNING, "starlette_auth"):
        for _ in range(3):
            assert shop.visible(ann) == [1, 3]
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("visible_to() does not know what Judge.has_perm() decides about single objects.")


# Objects


async def test_an_object_that_is_not_stored_or_was_deleted_is_not_visible(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule(VIEW, Order)(lambda user: True)
    assert not await auth.has_perm(ann, VIEW, Order(owner_id=ann.id))
    assert not await auth.has_perm(ann, VIEW, Order(id=1, owner_id=ann.id))
    shop.add(Order(id=1, owner_id=ann.id))
    with Session(shop.engine) as session:
        order = session.get(Order, 1)
        assert order is not None
        assert await auth.has_perm(ann, VIEW, order)
        session.expire(order)
        assert await auth.has_perm(ann, VIEW, order), "an expired object is not loaded again"
        order.id = 5  # not flushed: the row is still number 1
        assert await auth.has_perm(ann, VIEW, order)
    with Session(shop.engine) as session:
        session.delete(order := session.get(Order, 1))
        session.commit()
    assert not await auth.has_perm(ann, VIEW, order)


async def test_an_object_is_found_by_a_primary_key_of_several_columns(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule("shop.view_helper", Helper)(lambda user: Helper.helper_id == user.id)
    auth.rule("shop.view_parcel", parcel)(lambda user: parcel.c.owner_id == user.id)
    shop.add(Order(id=1), Helper(order_id=1, helper_id=ann.id), Helper(order_id=1, helper_id=ann.id + 1))
    answers = [await auth.has_perm(ann, "shop.view_helper", helper) for helper in shop.all(Helper)]
    assert sorted(answers) == [False, True]
    with shop.engine.begin() as connection:
        rows = [("a", 1, ann.id), ("a", 2, None), ("b", 1, None), ("b", 2, ann.id)]
        connection.execute(parcel.insert(), [{"shelf": s, "number": n, "owner_id": o} for s, n, o in rows])
        stored = connection.execute(sa.select(parcel).order_by(parcel.c.shelf, parcel.c.number)).all()
        visible = connection.execute(sa.select(parcel).where(auth.visible_to(ann, "shop.view_parcel", parcel))).all()
    assert sorted(visible) == [stored[0], stored[3]]
    mappings: list[Callable[[Any], Any]] = [lambda row: row, lambda row: row._mapping, lambda row: dict(row._mapping)]
    for convert in mappings:
        answers = [await auth.has_perm(ann, "shop.view_parcel", convert(row)) for row in stored]
        assert answers == [True, False, False, True]
    for record in await auth.database.fetch_all(parcel.select().where(parcel.c.owner_id == ann.id)):
        assert await auth.has_perm(ann, "shop.view_parcel", record)
    assert not await auth.has_perm(ann, "shop.view_parcel", {"shelf": None, "number": 1})
    assert not await auth.has_perm(ann, "shop.view_parcel", {"shelf": "' OR 1=1 --", "number": 1})
    with pytest.raises(ValueError, match=r"The row has no rule_parcel\.number.*Select the primary key"):
        await auth.has_perm(ann, "shop.view_parcel", {"shelf": "a"})


async def test_the_row_of_another_table_is_not_taken_for_one_of_this_table(shop: Shop, ann: Member) -> None:
    auth, orders = shop.auth, Order.__table__
    auth.rule(VIEW, orders)(lambda user: orders.c.owner_id == user.id)
    shop.add(Order(id=1, owner_id=ann.id), Document(id=1))
    with shop.engine.connect() as connection:
        [document] = connection.execute(sa.select(Document.__table__)).all()
        [order] = connection.execute(sa.select(orders)).all()
    assert await auth.has_perm(ann, VIEW, order)
    with pytest.raises(ValueError, match=r"The row has no rule_order\.id"):
        await auth.has_perm(ann, VIEW, document)
    auth.rule(VIEW, parcel)(lambda user: parcel.c.owner_id == user.id)
    with pytest.raises(
        ImproperlyConfigured, match=r"several tables \(rule_order, rule_parcel\), and a row does not tell"
    ):
        await auth.has_perm(ann, VIEW, order)


async def test_classes_that_inherit_a_model_have_its_rules(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule("shop.view_document", Document)(lambda user: Document.author_id == user.id)
    auth.rule("shop.view_document", Contract)(lambda user: Contract.partner_id == user.id)
    shop.add(
        Document(id=1, author_id=ann.id),
        Document(id=2),
        Contract(id=3, author_id=ann.id),
        Contract(id=4, partner_id=ann.id),
        Contract(id=5),
        Memo(id=6, author_id=ann.id),
        Memo(id=7),
    )
    assert await shop.allowed(ann, "shop.view_document", Contract) == [3, 4]
    assert await shop.allowed(ann, "shop.view_document", Memo) == [6]
    assert shop.visible(ann, "shop.view_document", Document) == [1, 3, 6]


async def test_rules_see_what_the_transaction_of_the_package_has_written(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule("shop.view_parcel", parcel)(lambda user: parcel.c.owner_id == user.id)
    row = {"shelf": "a", "number": 1, "owner_id": ann.id}

    async def add() -> None:
        async with auth.gateway.atomic():
            await auth.gateway.execute(parcel.insert().values(row))
            assert await auth.has_perm(ann, "shop.view_parcel", row)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await add()
    assert not await auth.has_perm(ann, "shop.view_parcel", row)


async def test_a_rule_may_ask_about_other_permissions(shop: Shop, ann: Member) -> None:
    auth = shop.auth
    auth.rule(VIEW, Order)(lambda user: user.has_perm(CHANGE) and user.has_perm("shop.view_customer"))
    shop.add(Order(id=1))
    assert await shop.allowed(ann) == []
    for perm in (CHANGE, "shop.view_customer"):
        await auth.users.create_permission(perm)
        await auth.users.grant(ann, perm)
    assert await shop.allowed(await fresh(shop, ann)) == [1]


# Mistakes


async def test_a_mistake_in_a_rule_is_reported(shop: Shop, ann: Member) -> None:
    auth = shop.auth

    async def waits(user: Any) -> Any:
        return True

    wrong: Sequence[tuple[Callable[[], Any], str]] = [
        (lambda: auth.rule("order", Order), "'order' is not a permission"),
        (lambda: auth.rule("shop.*", Order), "wildcard"),
        (lambda: auth.rule([VIEW], Order), "perm is a list"),  # type: ignore[arg-type]
        (lambda: auth.rule(VIEW, "orders"), r"The model of a rule is a str\. Pass a mapped class"),
        (lambda: auth.rule(VIEW, Base), "The model of a rule is the class Base"),
        (lambda: auth.rule(VIEW, Order()), "The model of a rule is an Order"),
        (lambda: auth.rule(VIEW, Order)(waits), "is async"),
        (lambda: auth.rule(VIEW, Order)(lambda: True), "must take one argument, the user"),
        (lambda: auth.rule(VIEW, Order)(lambda user, request: True), "must take one argument, the user"),
        (lambda: auth.rule(VIEW, Order)(Order), "The rule is None"),
        (lambda: auth.rule(VIEW, Order)(None), "The rule is None"),  # type: ignore[type-var]
        (lambda: auth.visible_to(ann, VIEW, Order), rf"There is no rule for \({VIEW}, Order\)\. Write one with"),
        (
            lambda: auth.visible_to(ann, VIEW, Product),
            rf'\({VIEW}, Product\)\. Write one with @auth\.rule\("{VIEW}", Product\)',
        ),
        (lambda: auth.visible_to(ann, VIEW, parcel), rf"There is no rule for \({VIEW}, rule_parcel\)\."),
        (lambda: auth.visible_to(ann, VIEW, sa.orm.aliased(Order)), "The model of a rule is an AliasedClass"),
    ]
    for call, message in wrong:
        with pytest.raises(ImproperlyConfigured, match=message) as caught:
            call()
        assert str(caught.value).endswith((".", ")", "`"))
    with pytest.raises(TypeError, match="User or an AnonymousUser"):
        auth.visible_to("ann", VIEW, Order)  # type: ignore[arg-type]
    auth.rule(VIEW, Order)(own)
    with pytest.raises(ImproperlyConfigured, match=r"Did you mean 'shop\.view_order, Order'"):
        auth.visible_to(ann, "shop.veiw_order", Order)


@pytest.mark.parametrize("result", [1, 0, "owner_id = 1", "", [], object(), sa.select(sa.literal(1)), Order])
async def test_what_is_no_condition_is_refused(shop: Shop, ann: Member, result: Any) -> None:
    shop.auth.rule(VIEW, Order)(lambda user: result)
    shop.add(Order(id=1))
    with pytest.raises(ImproperlyConfigured, match=r"test_rules\.py:\d+\) returned .* Return a condition as in"):
        shop.auth.visible_to(ann, VIEW, Order)
    with pytest.raises(ImproperlyConfigured, match="Return a condition as in"):
        await shop.auth.has_perm(ann, VIEW, shop.all(Order)[0])
