"""Models: loading and naming them, and the MoE adapter that watches and steers a student's routing."""
