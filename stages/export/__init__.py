"""`padd export`: a student as a stock transformers checkpoint (docs/METHOD.md, section 7)."""
