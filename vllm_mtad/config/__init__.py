"""This package says what a user can ask for and refuses the rest, each in one sentence, before anything is loaded.

`options` holds MTAD's own fields; `speculative` is vLLM's SpeculativeConfig with them; `draft_table` finds a draft
for a known target; `attention` reads what a model's attention asks for; `checks` holds what must be true of the draft;
`refusals` is the table of what cannot be combined, and `engine_checks` goes through it and compares sizes; `errors`
says it all at once; `candidate_schedule` is how many candidates go with how many requests; `request_options` are a
request's own.
"""
