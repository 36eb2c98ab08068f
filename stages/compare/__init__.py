"""`padd compare`: methods beside each other, from their evaluations (docs/METHOD.md, sections 6 and 7)."""
