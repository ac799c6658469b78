"""What people read: one row in words, a sweep as a table and a plot. Imports pandas and matplotlib when it is used, and not before."""

from tokenprune.report.summary import summary, write_report

__all__ = ["summary", "write_report"]
