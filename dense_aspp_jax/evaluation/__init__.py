"""Evaluation: metrics, whole-image inference, pictures."""
