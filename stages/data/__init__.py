"""Problems, prompts, subdomains, the grader and rewards."""
