"""Base classes of options, and the options that several stages take."""
