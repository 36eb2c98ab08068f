"""`padd train`: Stages II to IV fused into one run, and the baselines (docs/METHOD.md, sections 4 and 5)."""
