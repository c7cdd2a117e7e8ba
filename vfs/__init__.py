"""A replica as a SQLite database."""
