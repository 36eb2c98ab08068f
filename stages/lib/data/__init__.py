"""Problems, prompts, token sequences, subdomains."""
