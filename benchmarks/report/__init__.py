"""`python -m benchmarks report DIR`: raw rows become figures (`results`), tables, plots, and one page (`markdown`)."""
