"""Authentication backends: ways of telling who a request is from."""
