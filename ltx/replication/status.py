"""What is known of a replicated database, for whoever asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of one replicated database.

    Attributes:
        path: The database.
        state: "replicating", "waiting" for a storage or a database, or "stopped" by a conflict.
        mode: Its journal mode as far as it matters: "wal" or "rollback"; "" where it is not open.
        txid: The last transaction captured.
        wal_frames: Frames in the WAL.
        wal_frames_done: How many of them are in the database file.
        wal_stuck: Why the WAL has not become smaller for long; None where it has.
        replicas: For each replica its URL, its last transaction, what it lags behind, and its last error.
        error: The last error in reading the database.
        checkpoints: How many checkpoints got through.
        longest_barrier_s: For how long writers were kept out at most.
        compared: How often the whole database was compared.
    """

    path: str
    state: str
    mode: str
    txid: int
    wal_frames: int
    wal_frames_done: int
    wal_stuck: str | None
    replicas: Sequence[Mapping[str, object]]
    error: str | None
    checkpoints: int
    longest_barrier_s: float
    compared: int
