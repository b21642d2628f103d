"""Authentication backends: who is making a request?"""
