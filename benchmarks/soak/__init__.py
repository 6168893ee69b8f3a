"""A soak asks a server for everything at once, breaks what can be broken, and counts what was lost.

`asks` makes the requests, `load` sends them, `verdict` says what must hold afterwards, `faults` kills processes.
"""
