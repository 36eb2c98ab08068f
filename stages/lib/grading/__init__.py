"""Grading of final answers: extraction, notation, verification, in processes that can be killed."""
