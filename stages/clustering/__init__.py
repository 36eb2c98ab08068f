"""Balanced clusters of neurons, how good they are, and the router that a student gets from them."""
