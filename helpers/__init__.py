"""Embeddings of every paper in a citation dump: one folder a stage, in the order of the notebooks."""

__version__ = "0.1.0"
