"""What `trilho init` writes: a pipeline and a schema for a dataset, and workflows that call us."""

from trilho.init.callers import callers
from trilho.init.project import init, save

__all__ = ["callers", "init", "save"]
