"""A small application that uses every part of starlette_auth: `python -m example_app`."""
