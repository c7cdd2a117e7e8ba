"""The contract of a backend, as one pytest class that every backend and every wrapper runs whole.

Subclass `BackendContract`, give it a fixture `backend` and the methods `reopen` and `raw_get`, and name the subclass
`Test...`. There is no skip: what a backend cannot do it must say in its capabilities, and then refuse.

`FaultyBackend` fails by seed or by script; it needs no pytest in `backends.faulty`, where it lives.

`pytest.register_assert_rewrite("backends.testing")` in a `conftest.py` makes failures say what was compared.
"""

from backends.fault_plans import KINDS, TRANSIENT, Fault, RandomFaults, ScriptedFaults
from backends.faulty import FaultyBackend, Injected
from backends.testing.listings import ListingContract
from backends.testing.objects import ObjectContract
from backends.testing.sharing import SharingContract
from backends.testing.support import BAD_KEYS, BAD_PREFIXES, UNUSUAL_KEYS, BrokenFile, content, in_child
from backends.testing.writers import WriterContract

__all__ = [
    "BAD_KEYS",
    "BAD_PREFIXES",
    "KINDS",
    "TRANSIENT",
    "UNUSUAL_KEYS",
    "BackendContract",
    "BrokenFile",
    "Fault",
    "FaultyBackend",
    "Injected",
    "RandomFaults",
    "ScriptedFaults",
    "content",
    "in_child",
]


class BackendContract(ObjectContract, ListingContract, WriterContract, SharingContract):
    """What `backends.base.Backend` promises, one test a promise."""
