"""The LTX files of one database on one backend: list, plan, restore, verify."""

from ltx.replica.files import LTXFile
from ltx.replica.plan import Plan
from ltx.replica.replica import Replica, Restored
from ltx.replica.times import format_time, parse_time

__all__ = ["LTXFile", "Plan", "Replica", "Restored", "format_time", "parse_time"]
