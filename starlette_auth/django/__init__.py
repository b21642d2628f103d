"""Sharing the database of a Django project."""
