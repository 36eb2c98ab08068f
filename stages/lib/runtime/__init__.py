"""Processes, checkpoints, seeds, logs, optimisation."""
