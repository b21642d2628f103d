"""SQL databases and Redis: statements, connections, transactions, tables, migrations."""
