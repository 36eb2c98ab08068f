"""Statistics of routing and accuracy: correlation, ridge regression, specialisation, intervals."""
