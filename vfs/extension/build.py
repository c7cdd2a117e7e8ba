"""How setuptools builds the SQLite extension: `litestream.so` beside its sources, for any Python of the machine."""

import json
import os
import sys

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

__all__ = ["BuildExtension", "BuildWheel"]


class BuildExtension(build_ext):  # type: ignore[misc]  # setuptools has types where it is new enough
    """Builds a library that SQLite loads, where others build a module that Python imports."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the name under which SQLite finds it, without the version of a Python that it does not know."""
        return os.path.join(*fullname.split(".")) + (".dylib" if sys.platform == "darwin" else ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Return what the linker must be told to export: the C file says it."""
        return list(ext.export_symbols)

    def build_extension(self, ext: Extension) -> None:
        """Build it; for an editable installation it keeps in mind which Python that is."""
        if self.editable_mode:
            ext.define_macros.append(("BUILT_FOR", json.dumps(sys.executable)))
        super().build_extension(ext)


class BuildWheel(bdist_wheel):  # type: ignore[misc]
    """Makes one wheel for every Python: the library in it knows none."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag of the platform alone."""
        return "py3", "none", super().get_tag()[2]
