"""What a program inside a kernel uses to talk to other kernels: `popnet.connect()`.

`connection` is for asyncio, `blocking` for scripts; `socketlink` is the link that a packet socket makes,
`greeting` how a connection begins, `routed` what rides it. docs/programs.md is the description for users.
"""
