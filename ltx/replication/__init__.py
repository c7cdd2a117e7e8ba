"""A live SQLite database to its replica."""

from ltx.replication.client import Replication, replicate
from ltx.replication.once import Published, replicate_once

__all__ = ["Published", "Replication", "replicate", "replicate_once"]
