"""The formulas of docs/METHOD.md as pure functions: tensors in, (value, metrics) out. Imports torch only."""
