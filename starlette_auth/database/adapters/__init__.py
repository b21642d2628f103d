"""The two implementations of `Gateway`, and what they share: drivers, queries, commit hooks, the SQLite write lock."""
