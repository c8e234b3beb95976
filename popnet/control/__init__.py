"""The control API of a machine: server, client."""
