"""Few-shot evaluation: what a benchmark is, the paper's protocol, the runner, and the report."""
