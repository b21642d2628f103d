"""API tokens: credentials of programs, which act for a user."""
