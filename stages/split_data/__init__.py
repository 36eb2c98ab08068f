"""`padd split-data`: problems into four subsets that do not overlap (docs/METHOD.md, section 1)."""
