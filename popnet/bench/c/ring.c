/* popnet's link from C: `ring MODE SIZE BUDGET_S [CPU CPU]`; prints its figures as JSON. */

#include "popnet_link.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { BATCH = 16, ALARM_S = 60 };

static struct popnet_link end;
static uint32_t wire_size;
static int side_channel;

static void fail(const char *what);

static void wire_send(const uint8_t *data) {
    if (!popnet_send(&end, NORMAL, 0, data, wire_size))
        fail("the link is broken");
}

static uint32_t receive_into(uint8_t *data) {
    uint32_t size, tag;
    const uint8_t *record = popnet_receive(&end, NORMAL, &size, &tag);
    if (!record || size != wire_size)
        fail("the link is broken");
    memcpy(data, record, size);
    return size;
}

static void wire_receive(uint8_t *data) { popnet_done(&end, NORMAL, receive_into(data)); }

/* Published every BATCH small records, as a sender with many does; large ones at once. */
static void wire_stream(const uint8_t *data, uint64_t count) {
    struct producer *out = &end.out[NORMAL];
    uint64_t batch = wire_size > 8192 ? 1 : BATCH;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *to = producer_reserve(out, wire_size);
        if (!to) {
            producer_publish(out);
            to = popnet_reserve(&end, NORMAL, wire_size);
        }
        if (!to)
            fail("the link is broken");
        memcpy(to, data, wire_size);
        producer_stage(out, wire_size, 0);
        if (i % batch == batch - 1)
            producer_publish(out);
    }
    producer_publish(out);
}

static void wire_drain(uint8_t *last, uint64_t count) {
    struct consumer *in = &end.in[NORMAL];
    uint64_t batch = wire_size > 8192 ? 1 : BATCH;
    for (uint64_t i = 0; i < count; i++) {
        consumer_take(in, receive_into(last));
        if (i % batch == batch - 1)
            consumer_release(in);
    }
    consumer_release(in);
}

static void control_tell(uint64_t task, uint64_t count) {
    uint64_t packet[2] = {task, count};
    if (write(side_channel, packet, sizeof packet) != sizeof packet)
        fail("the other end is gone");
}

static uint64_t control_hear(uint64_t *count) {
    uint64_t packet[2];
    if (read(side_channel, packet, sizeof packet) != sizeof packet)
        fail("the other end is gone");
    *count = packet[1];
    return packet[0];
}

#include "timing.h"

static void pin(const char *cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(atoi(cpu), &set);
    sched_setaffinity(0, sizeof set, &set);
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 6)
        fail("usage: ring MODE SIZE BUDGET_S [CPU CPU]");
    enum wait_mode mode = WAIT_POLL;
    while (mode < WAIT_MODES && strcmp(argv[1], WAIT_MODE_NAME[mode]) != 0)
        mode++;
    if (mode == WAIT_MODES)
        fail("MODE is poll, adaptive or interrupt");
    wire_size = (uint32_t)atoi(argv[2]);
    struct popnet_window windows[2], views[2];
    int bells[2], sockets[2];
    for (uint32_t i = 0; i < 2; i++) {
        bells[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (bells[i] < 0 || !popnet_window_create(&windows[i], i + 1, 1, 2 - i))
            fail("no window");
        if (!popnet_window_attach(&views[i], windows[i].fd))
            fail("an unfit window");
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets) < 0)
        fail("no sockets");
    pid_t child = fork();
    int own = child == 0, peer = !own;
    alarm(ALARM_S);
    if (own)
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* it may be polling for what will never come */
    if (argc == 6)
        pin(argv[4 + own]);
    close(sockets[peer]);
    side_channel = sockets[own];
    popnet_join(&end, &windows[own], &views[peer], bells[own], bells[peer]);
    waiter_set(&end.for_data, mode, SPIN_MAX_US_DEFAULT * 1000);
    waiter_set(&end.for_room, mode, SPIN_MAX_US_DEFAULT * 1000);
    prepare(wire_size);
    if (own) {
        follow(wire_size);
        return 0;
    }
    lead(wire_size, atof(argv[3]));
    int status;
    return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}
