"""Which gateway belongs to a database?"""

from databases import Database

from ..core.arguments import require_instance
from .adapters.databases_gateway import DatabasesGateway
from .gateway import Gateway


def gateway_of(database: Database) -> Gateway:
    """Returns the gateway of a database: one object per database, because the write lock must be shared."""
    require_instance(database, Database, "database", "Pass Database(url), from the package `databases`.")
    gateway: Gateway | None = vars(database).get("_starlette_auth")
    if gateway is None:
        gateway = vars(database)["_starlette_auth"] = DatabasesGateway(database)
    return gateway
