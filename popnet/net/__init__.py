"""The virtual NIC: TAP, addresses, capture."""
