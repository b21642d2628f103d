"""A small shop with FastAPI and SQLAlchemy, to be copied: `python -m example_app.api`."""
