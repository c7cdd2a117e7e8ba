"""What upkeep finds damaged or missing in a replica, and that it becomes whole again: by a snapshot of the database."""

import logging
from collections.abc import Sequence

from backends import BackendError
from ltx.errors import CorruptError, GapError
from ltx.replica.apply import damaged_file
from ltx.replica.files import LTXFile
from ltx.replica.layout import SNAPSHOT_LEVEL
from ltx.replica.plan import gap_error, reach_of
from ltx.replica.retention import Fault, Verified
from ltx.replication.upload import Uploader

__all__ = ["Soundness"]

log = logging.getLogger("ltx")


class Soundness:
    """The files of one replica, as far as upkeep reads them. It asks for nothing that upkeep does not ask for anyway.

    Damaged files stay where they are: `ltx verify` names them, and retention deletes them when their time has come.

    Attributes:
        problem: What is wrong with the replica, as of the last listing.

    Args:
        uploader: The replica; it is told what to make up for.
        verified: What retention found, and will not trust any more.
    """

    def __init__(self, uploader: Uploader, verified: Verified) -> None:
        self.problem: Exception | None = None
        self._uploader, self._verified = uploader, verified
        self._damaged: dict[tuple[str, int, str], Fault] = {}
        self._suspect = ""
        self._asked = False

    @property
    def is_made_up_for(self) -> bool:
        """Whether what was asked of the uploader since the last listing is done, so that another one is worth it."""
        return self._asked and self._uploader.is_current

    def files(self) -> Sequence[LTXFile]:
        """List the replica; where something is missing or damaged that no snapshot makes up for, have one made."""
        self._asked = False
        expected = self._uploader.txid or 0
        files = self._uploader.replica.files()
        reach = reach_of(files)
        if reach.gap or _newest(files) < expected:
            # Once more: of files that appear while a folder is listed, a later one may be seen and an earlier one not.
            files = self._uploader.replica.files()
            reach = reach_of(files)
        present = {_identity(file) for file in files}
        self._damaged = {each: fault for each, fault in self._damaged.items() if each in present}
        problem: Exception | None = None
        for fault in self._damaged.values():
            self._make_up_for(fault.file, files)
            problem = problem or CorruptError(
                f"{fault.file.key} is damaged, and states that need it cannot be restored: {fault.text}"
            )
        if reach.gap or _newest(files) < expected:
            self._asked = True
            self._uploader.doubt()
        if _newest(files) < expected:
            problem = problem or GapError(
                f"{self._uploader.replica.url} had TXID {expected:016x} and has it no more: somebody else deletes there",
                after=_newest(files),
            )
        elif reach.gap:
            self._heal(reach.gap[1] - 1)
            problem = problem or gap_error(reach)
        self._tell(problem)
        return files

    def readable(self, files: Sequence[LTXFile], *, but: int | None = None) -> Sequence[LTXFile]:
        """Leave out what is damaged.

        Args:
            files: What was listed.
            but: A level whose names are taken in any case.
        """
        return [file for file in files if file.level == but or _identity(file) not in self._damaged]

    def note(self, error: Exception) -> bool:
        """Look whether an error is due to a damaged file; what was a fault of the way there is not.

        Returns:
            Whether it is; then it is in `problem`.
        """
        file = damaged_file(error)
        if file is None:
            return False
        self._check(file, str(error))
        self.files()
        return _identity(file) in self._damaged

    def note_passed_over(self, keys: Sequence[str], files: Sequence[LTXFile]) -> None:
        """Look at files that something did without."""
        known = len(self._damaged)
        for file in files:
            if file.key in keys and _identity(file) not in self._damaged:
                self._check(file, "")
        if len(self._damaged) > known:
            self.files()

    def note_faults(self, faults: Sequence[Fault]) -> None:
        """Take what retention found."""
        found = [fault for fault in faults if _identity(fault.file) not in self._damaged]
        for fault in found:
            self._add(fault)
        if found:
            self.files()

    def _check(self, file: LTXFile, text: str) -> None:
        try:
            fault = Verified().fault_of(self._uploader.replica.backend, file)
        except BackendError:
            return
        if fault is None and text and self._suspect == file.key:
            fault = Fault(file, text)  # it is whole, and twice did not fit to what comes before it
        self._suspect = file.key
        if fault:
            self._add(fault)

    def _add(self, fault: Fault) -> None:
        self._damaged[_identity(fault.file)] = fault
        self._verified.note(fault)

    def _make_up_for(self, damaged: LTXFile, files: Sequence[LTXFile]) -> None:
        """Have a snapshot made, unless one leads past the damaged file."""
        wanted = damaged.max_txid + (damaged.level == SNAPSHOT_LEVEL)  # its own name is taken
        if not any(
            file.level == SNAPSHOT_LEVEL and file.is_usable and file.max_txid >= wanted
            for file in self.readable(files)
        ):
            self._heal(wanted)

    def _heal(self, txid: int) -> None:
        self._asked = True
        self._uploader.heal(txid)

    def _tell(self, problem: Exception | None) -> None:
        if problem is not None and str(problem) != str(self.problem):
            log.error(
                "something is damaged or missing; a snapshot makes up for it",
                extra={"replica": self._uploader.replica.url, "error": str(problem)},
            )
        self.problem = problem


def _newest(files: Sequence[LTXFile]) -> int:
    return max((file.max_txid for file in files), default=0)


def _identity(file: LTXFile) -> tuple[str, int, str]:
    return file.key, file.size, file.version
