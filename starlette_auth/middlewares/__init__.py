"""The ASGI middlewares: sessions, authentication, required logins, CSRF."""
