"""Serves Django: `python -m tests.django_project.asgi PORT`."""

import os
import sys

import uvicorn
from django.core.asgi import get_asgi_application

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django_project.settings")
    uvicorn.run(get_asgi_application(), port=int(sys.argv[1]), lifespan="off", log_level="warning")
