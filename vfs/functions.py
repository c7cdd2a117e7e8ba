"""SQL functions of a connection on a replica: what the pragmas tell, usable within a statement."""

from weakref import ref

import apsw

__all__ = ["add_functions"]


def add_functions(connection: apsw.Connection) -> None:
    """Add `litestream_time()`, `litestream_txid()`, `litestream_lag()` and `litestream_set_time(t)`.

    They speak of the connection's main database; the pragmas can name an attached one.
    """
    weak = ref(connection)

    def pragma(name: str, value: str | None = None) -> str | None:
        alive = weak()
        if alive is None:
            return None
        return str(
            alive.pragma(name, schema="main") if value is None else alive.pragma(name, value, schema="main")
        )

    def time(*_: object) -> str | None:
        return pragma("litestream_time")

    def txid(*_: object) -> str | None:
        return pragma("litestream_txid")

    def lag(*_: object) -> float:
        return float(pragma("litestream_lag") or -1)

    def set_time(*to: object) -> None:
        pragma("litestream_time", str(to[0]))

    connection.create_scalar_function("litestream_time", time, 0)
    connection.create_scalar_function("litestream_txid", txid, 0)
    connection.create_scalar_function("litestream_lag", lag, 0)
    connection.create_scalar_function("litestream_set_time", set_time, 1, flags=apsw.SQLITE_DIRECTONLY)
