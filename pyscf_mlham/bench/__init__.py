"""Measured comparisons of guesses and solvers."""
