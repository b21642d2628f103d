"""A real Django project for the tests, in processes of its own."""
