"""Pure ground: ids, addresses, limits, errors. No file descriptors, no asyncio, no clock."""
