"""`padd cluster`: balanced clusters of teacher neurons, and router rows from them (docs/METHOD.md, section 2)."""
