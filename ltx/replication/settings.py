"""How a database is replicated."""

from dataclasses import dataclass, field
from pathlib import Path

from ltx.replication.checkpoint import Limits
from ltx.replication.maintenance import Upkeep

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a database is replicated.

    Attributes:
        sync_interval_s: The shortest time from one transaction of the replica to the next; the first commit after a
            quiet time goes at once.
        keep_size: Bytes of files that wait here for a replica before it gets a snapshot instead.
        limits: When checkpoints are due.
        upkeep: What the daemon does to keep the replicas small.
        adopt: Whether a replica may be gone on with that looks like another database's.
        look_s: Seconds after which the database is looked at even if no file event says that it changed.
        folder: Where replication keeps its own state; None for a folder beside the database.
        restore: Whether to restore the database from a replica where it is missing.
        wal: Whether to bring a database with a rollback journal into WAL mode, as soon as nobody holds a lock on it.
    """

    sync_interval_s: float = 1.0
    keep_size: int = 1 << 30
    limits: Limits = field(default_factory=Limits)
    upkeep: Upkeep = field(default_factory=Upkeep)
    adopt: bool = False
    look_s: float = 10.0
    folder: Path | None = None
    restore: bool = False
    wal: bool = False
