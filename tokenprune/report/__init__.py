"""What people read: one row in words, a sweep as reports. Imports pandas and matplotlib when it is used, and not before."""

from tokenprune.report.base import Sweep, build_reports, make_reports
from tokenprune.report.summary import summary

__all__ = ["Sweep", "build_reports", "make_reports", "summary"]
