"""Terminals between kernels: history, hub, sshd."""
