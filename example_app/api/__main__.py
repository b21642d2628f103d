"""Runs the shop: `python -m example_app.api`."""

import uvicorn

from . import settings
from .app import app

if __name__ == "__main__":
    # By default, uvicorn trusts the X-Forwarded-For header of every process on this machine.
    uvicorn.run(app, host=settings.HOST, port=settings.PORT, proxy_headers=False)
