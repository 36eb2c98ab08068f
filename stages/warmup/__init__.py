"""`padd warmup`: new router rows, then the experts are warmed up (docs/METHOD.md, section 3)."""
