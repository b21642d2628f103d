"""A Django project beside the example application: one database, one key, one login."""
