"""Django's command line, and code for its shell: `python -m tests.django_project.manage COMMAND …`, or `- < code`."""

import os
import sys

import django
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django_project.settings")
    if sys.argv[1:] != ["-"]:
        execute_from_command_line(sys.argv)
    else:
        django.setup()
        exec(compile(sys.stdin.read(), "<test>", "exec"))
