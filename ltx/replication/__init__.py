"""A live SQLite database to its replica."""

from ltx.replication.once import Published, replicate_once

__all__ = ["Published", "replicate_once"]
