"""Measuring any engine: timing, statistics, budgets, results. Nothing here is imported by what it measures."""
