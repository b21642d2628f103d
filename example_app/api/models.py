"""What the database stores: members and their orders."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from starlette_auth import User, user_columns

from .database import Base

member = sa.Table(
    "member", Base.metadata, *user_columns(), sa.Column("city", sa.String(100), nullable=False, default="")
)


@dataclass(kw_only=True, eq=False)
class Member(User):
    """A user of the shop: a row of the table `member`. Each column that you add there is a field here."""

    city: str = ""


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("member.id"), index=True)
    item: Mapped[str] = mapped_column(sa.String(100))
    quantity: Mapped[int]
    voucher: Mapped[str | None] = mapped_column(sa.String(20), unique=True)
