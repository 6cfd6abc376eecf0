"""Everything that uses Hydra, including its private parts.

Read `launcher` first: it turns Hydra's jobs into trials, and outcomes into Hydra's returns.
"""
