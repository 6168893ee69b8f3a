"""MiniSQL is an unlimited, seeded text-to-SQL task over random schemas, with checkable execution accuracy.

schema -> query -> wording (English) and spelling (SQL) -> task (examples, splits, execution).
"""
