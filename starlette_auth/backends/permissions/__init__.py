"""What users may do: permissions from backends, roles and rules, beside those in the database."""
