"""`python -m benchmarks report DIR` makes figures of raw rows (`results`), tables, plots, and one page (`markdown`)."""
