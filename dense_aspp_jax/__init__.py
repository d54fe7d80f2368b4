"""Semantic segmentation of street scenes with DenseASPP, in JAX and Flax."""

__version__ = '0.1.0'
