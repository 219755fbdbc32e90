"""The schema's versions, run at start (docs/decisions/0006)."""
