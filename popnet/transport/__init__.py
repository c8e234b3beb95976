"""Windows, rings, doorbells and links: bytes between two kernels through shared memory.

`_native` holds all that touches shared memory (read the theory of operation at its top); `window` makes and
checks the memfds, `doorbell` the eventfds, `handover` passes both to another process, `directory` tells who
is there.
"""
