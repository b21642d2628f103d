"""Serves both on one database: `python -m example_app.django_site`."""

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys

import uvicorn

from example_app import settings
from starlette_auth import ImproperlyConfigured


def main() -> None:
    try:
        host, port = settings.address()
        if importlib.util.find_spec("django") is None:
            raise ImproperlyConfigured('Django is missing. Run `pip install --editable ".[example-django]"`.')
        os.environ["DJANGO"], os.environ["STARLETTE_URL"] = "1", settings.url_of(host, port)
        os.environ["DJANGO_URL"] = settings.url_of(host, port + 1)
        settings.secret_keys()  # before two processes look for it
        settings.database()
    except ImproperlyConfigured as error:
        sys.exit(" ".join(str(error).split()))
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_app.django_site.settings"
    django = importlib.import_module("django")
    django.setup()
    importlib.import_module("django.core.management").call_command("migrate", verbosity=0)
    asgi = importlib.import_module("django.core.asgi").get_asgi_application()
    app = importlib.import_module("django.contrib.staticfiles.handlers").ASGIStaticFilesHandler(asgi)
    print(f"Django {django.__version__}: {os.environ['DJANGO_URL']} (Ctrl+C to stop both)", flush=True)
    with subprocess.Popen([sys.executable, "-m", "example_app"]) as starlette:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.run(app, host=host, port=port + 1, lifespan="off", log_level="warning")
        starlette.terminate()


if __name__ == "__main__":
    main()
