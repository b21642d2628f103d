"""The session, its limits and its stores."""
