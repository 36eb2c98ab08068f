"""`padd eval`: accuracies on benchmarks, with intervals (docs/METHOD.md, section 6)."""
