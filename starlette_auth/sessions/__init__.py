"""Sessions: the session object, session timeouts and session stores."""
