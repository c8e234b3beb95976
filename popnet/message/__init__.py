"""Typed messages and streams over links."""
