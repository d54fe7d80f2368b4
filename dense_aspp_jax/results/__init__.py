"""Scores of runs gathered over seeds, beside published ones; model cards."""
