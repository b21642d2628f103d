"""A Django project that shares database, secret key and logins with the example application."""
