"""Users and logins: the `Auth` of the shop."""

from pathlib import Path

from starlette_auth import APITokens, Auth, BearerSessions, ConsoleMailer, DeviceLogin, Registration, Tables, TwoFactor

from . import settings
from .database import Base, engine
from .models import Member, member

auth = Auth(
    engine,
    secret_key=settings.secret_key(),
    user_class=Member,
    tables=Tables(user=member, metadata=Base.metadata),
    features=[
        Registration(),
        TwoFactor(),  # an authenticator app, for members who add one
        APITokens("shop"),  # for programs
        BearerSessions(),  # for native apps
        DeviceLogin(clients={"cli": "Shop for the command line"}),  # for example_app/cli.py
    ],
    mailer=ConsoleMailer(),  # prints mails; SMTPMailer sends them
    base_url=settings.BASE_URL,
    site_name="Shop",
    templates=[Path(__file__).parent / "templates"],
)
