/* The anchor of a kernel's namespaces: a child that makes them by being born, holds them until the daemon has
 * joined or opened them, and ends.
 *
 * It shares the caller's memory, of which it uses one small stack and nothing else, so it costs neither a copy
 * of the page tables nor their end: a fork of a whole interpreter for this took a third of a boot. It makes
 * system calls only, without libc's thread-local state, and no signal reaches it.
 *
 *     anchor(flags) -> (pid, fd)    the child waits until fd, a pipe's writing end, is closed: also by our death
 */

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>

#define ANCHOR_STACK (32 * 1024)

struct anchor {
    int reading, writing;
};

static int anchor_waits(void *argument) {
    const struct anchor *anchor = argument;
    char byte;
    syscall(SYS_close, anchor->writing); /* ours is a copy: with it the pipe would never end */
    syscall(SYS_read, anchor->reading, &byte, 1);
    return 0;
}

static PyObject *native_anchor(PyObject *Py_UNUSED(module), PyObject *arguments) {
    static _Alignas(16) char stack[ANCHOR_STACK];
    static struct anchor anchor; /* read by the child, so it must outlive this call; one child at a time */
    unsigned int flags;
    if (!PyArg_ParseTuple(arguments, "I", &flags))
        return NULL;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    anchor.reading = ends[0];
    anchor.writing = ends[1];
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    int pid = clone(anchor_waits, stack + ANCHOR_STACK, (int)flags | CLONE_VM | SIGCHLD, &anchor);
    int error = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(ends[0]);
    if (pid < 0) {
        close(ends[1]);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("(ii)", pid, ends[1]);
}
