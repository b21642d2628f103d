"""Users, groups and permissions, in memory and in the database."""
