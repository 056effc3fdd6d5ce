"""Trilho: the rail that carries a scikit-learn model from a pull request to production."""

__version__ = "0.1.0"
