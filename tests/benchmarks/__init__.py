"""How fast it is, measured beside what others do and what nobody can do without: `python -m tests.benchmarks`."""
