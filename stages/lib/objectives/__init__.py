"""The formulas of docs/METHOD.md: tensors in, loss and metrics out. Imports torch alone."""
