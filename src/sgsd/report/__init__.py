"""The report room: the files of one run in, one offline HTML page out."""

from sgsd.report.page import write_report

__all__ = ["write_report"]
