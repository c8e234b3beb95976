"""Measuring popnet beside everything a user could pick instead; `popnet bench` and `tools/bench` show it."""
