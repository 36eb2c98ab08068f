"""What an evaluation is made of: asking a model, keeping what has come, reading foreign responses, counting."""
