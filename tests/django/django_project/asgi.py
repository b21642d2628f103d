"""Creates Django's tables and runs a server: `python -m tests.django.django_project.asgi PORT`."""

import os
import sys

import django
import uvicorn
from django.core.asgi import get_asgi_application
from django.core.management import call_command

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django.django_project.settings")
    django.setup()
    call_command("makemigrations", "people", verbosity=0)
    call_command("migrate", verbosity=0)
    uvicorn.run(get_asgi_application(), port=int(sys.argv[1]), lifespan="off", log_level="warning")
