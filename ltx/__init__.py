"""LTX files and replicas of SQLite databases."""
