"""What a run will need, before it starts: memory by running the model's own code on the meta device, and time."""
