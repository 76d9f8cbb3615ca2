"""Marketplace: decides prices, usage records and budgets, organisation by organisation.

Streams: `price-…`, `budget-…`, `usage-…`. It hears the resource manager (who held what, for how
long) and tells the scheduler to end a job whose own budget is used up.
"""
