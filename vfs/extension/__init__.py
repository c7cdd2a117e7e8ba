"""The SQLite extension: its C sources, and how setuptools builds them. Nothing here is imported to use it."""
