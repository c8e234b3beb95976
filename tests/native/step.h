/* For the harnesses that kill: a child that dies after so many instructions of what it does. */

#ifndef STEP_H
#define STEP_H

#include "lab.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

static void child(void (*act)(uint32_t, uint32_t), uint32_t size, uint32_t records) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        die("ptrace");
    raise(SIGSTOP);
    act(size, records);
    raise(SIGSTOP);
    _exit(0);
}

static int wait_for(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            die("waitpid");
    return status;
}

/* True: it died after `steps` steps. False: it was done before, which is as good as dead. */
static bool kill_after(long steps, void (*act)(uint32_t, uint32_t), uint32_t size, uint32_t records) {
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0)
        child(act, size, records);
    int status = wait_for(pid);
    bool stopped = WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP, running = true;
    if (stopped && ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL) < 0)
        die("exit kill");
    for (; stopped && running && steps > 0; steps--) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0)
            die("single step");
        status = wait_for(pid);
        running = WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
    }
    kill(pid, SIGKILL);
    while (WIFSTOPPED(status))
        status = wait_for(pid);
    if (!stopped)
        exit(3);
    return running;
}

#endif
