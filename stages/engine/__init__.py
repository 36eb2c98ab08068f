"""The parts of one training step: old-policy pass, update, router bias, log."""
