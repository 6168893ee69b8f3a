"""What a user can ask for, and what is refused, each in one sentence, before anything is loaded.

`options` holds MTAD's own fields; `speculative` is vLLM's SpeculativeConfig with them; `draft_table` finds a
draft for a known target; `checks` holds what must be true of the two models and of the engine.
"""
