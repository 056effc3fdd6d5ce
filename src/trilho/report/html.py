"""The report as one HTML file: no script, no request, everything in it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from trilho.report.contents import document
from trilho.report.document import Bar, Command, Folded, Mark, Name, Paragraph, Series, Table
from trilho.report.inputs import ReportInputs
from trilho.report.text import one_line, shorten, visible

if TYPE_CHECKING:
    from jinja2 import Template

    from trilho.report.charts import Chart

ROWS = 300  # rows of a table; more are counted, not shown


def html(inputs: ReportInputs) -> str:
    """Return the report as one self-contained HTML page that opens offline."""
    charts: dict[str, list[Chart]] = {}
    if inputs.evaluation is not None:
        from trilho.report.charts import draw  # matplotlib takes longer than all the rest

        charts = draw(inputs)
    return _template().render(doc=document(inputs), charts=charts, most=ROWS)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("trilho.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = (Bar, Command, Folded, Mark, Name, Paragraph, Series, Table)
    environment.tests |= {
        kind.__name__.lower(): (lambda value, kind=kind: isinstance(value, kind)) for kind in kinds
    }
    environment.filters |= {"name": shorten, "line": one_line, "visible": visible}
    return environment.get_template("report.html")
