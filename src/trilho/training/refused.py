"""Why a model is served by scikit-learn."""

from __future__ import annotations


class CompileRefused(Exception):  # noqa: N818  # not an error: such a model is served all the same
    """The model has no compiled form; the message says why."""
