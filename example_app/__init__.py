"""A small application on every part of starlette_auth: `python -m example_app`."""
