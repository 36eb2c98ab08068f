"""`padd analyze-experts`: load, specialisation, paths and shift of a model's routing (docs/METHOD.md, section 8)."""
