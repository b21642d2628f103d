"""A second factor at the login: codes of an authenticator app, and recovery codes."""
