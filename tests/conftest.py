"""For all tests: they behave the same in a terminal, in the background of a shell, and under nohup."""

import signal

# A shell starts what goes to its background with SIGINT and SIGQUIT ignored; nohup does so with SIGHUP.
# What a test starts would inherit it, and no Ctrl-C would end it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
