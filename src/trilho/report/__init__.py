"""The report of a run, for the reviewer who must decide: Markdown and one HTML file."""

from trilho.report.deployment import deployment, superseded
from trilho.report.html import html
from trilho.report.inputs import ReportInputs
from trilho.report.markdown import markdown

__all__ = ["ReportInputs", "deployment", "html", "markdown", "superseded"]
