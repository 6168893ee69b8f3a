"""`docs/models.md`: which models go together with mtad, asked of the checks themselves.

    python -m benchmarks.models_page            writes the page
    python -m benchmarks.models_page --check    exit status 1 if it is not what the checks say

`families` asks for each row of the table of known drafts, `kinds` has the kinds of models that people run beside them,
`verdicts` asks vLLM's configuration with mtad's checks in it, without any weights, and `page` writes it down.
"""
