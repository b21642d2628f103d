"""A Django project's database, shared with it."""
