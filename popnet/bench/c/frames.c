/*
 * What measures a network between two namespaces, from their sockets:
 *
 *   frames echo PORT                               answer every datagram, until killed
 *   frames trips ADDRESS PORT SIZE SECONDS         one request, one answer, again and again
 *   frames sink PORT                               count datagrams until 150 ms after the last one
 *   frames flood ADDRESS PORT SIZE SECONDS RATE    send datagrams, RATE a second (0: as fast as it goes)
 *   frames drain PORT FLOWS START_NS SECONDS       accept FLOWS connections, count what each brings
 *   frames spread PORT START_NS SECONDS ADDRESS..  a connection to each, all sending all they can
 *
 * Each prints one line of JSON at its end; those that listen print `ready` first. START_NS is CLOCK_MONOTONIC: `drain`
 * counts from then on for SECONDS, and `spread` sends from a little before until a little after.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SENT_AT_ONCE = 32, TAKEN_AT_ONCE = 64, DATAGRAM_MAX = 65536, BUFFER = 8 << 20, FLOWS_MAX = 1024 };
enum { SILENCE_MS = 150, PATIENCE_MS = 5000, RETRY_MS = 50, LEAD_MS = 200, TAIL_MS = 50, TRIPS_MAX = 2000000 };

static char data[1 << 20];

static void fail(const char *what) {
    fprintf(stderr, "frames: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct sockaddr_in address(const char *text, const char *port) {
    struct sockaddr_in found = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (text && inet_pton(AF_INET, text, &found.sin_addr) != 1) {
        errno = EINVAL;
        fail(text);
    }
    return found;
}

static int listener(int kind, const char *port) {
    int sock = socket(AF_INET, kind, 0), one = 1, size = BUFFER;
    struct sockaddr_in any = address(NULL, port);
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (kind == SOCK_DGRAM && setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size); /* as much as an ordinary user gets */
    if (bind(sock, (void *)&any, sizeof any) < 0 || (kind == SOCK_STREAM && listen(sock, FLOWS_MAX) < 0))
        fail("bind");
    puts("ready");
    fflush(stdout);
    return sock;
}

static int datagrams_to(const char *text, const char *port) {
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = address(text, port);
    if (connect(sock, (void *)&to, sizeof to) < 0)
        fail("connect");
    return sock;
}

static void patience(int sock, int ms) {
    struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

static _Noreturn void echo(const char *port) {
    int sock = listener(SOCK_DGRAM, port);
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t size = recvfrom(sock, data, sizeof data, 0, (void *)&from, &length);
        if (size >= 0)
            sendto(sock, data, (size_t)size, 0, (void *)&from, length);
    }
}

static int compare_u64(const void *one, const void *other) {
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

/* Requests are numbered, so that the late answer to a request given up is not taken for that of the next one. */
static int answered(int sock, uint64_t number, size_t size) {
    memcpy(data, &number, sizeof number);
    if (send(sock, data, size, 0) < 0)
        return 0;
    for (;;) {
        ssize_t got = recv(sock, data, sizeof data, 0);
        if (got < 0)
            return 0;
        if ((size_t)got == size && memcmp(data, &number, sizeof number) == 0)
            return 1;
    }
}

static int trips(char **words) {
    int sock = datagrams_to(words[0], words[1]);
    size_t size = (size_t)atoi(words[2]);
    uint64_t *taken = malloc(TRIPS_MAX * sizeof *taken), number = 1, count = 0, lost = 0;
    if (!taken || size < sizeof number)
        fail("too small");
    patience(sock, RETRY_MS);
    uint64_t limit = now_ns() + PATIENCE_MS * 1000000ull;
    while (!answered(sock, number++, size)) { /* addresses are looked up, links made */
        if (now_ns() > limit)
            fail("nothing came back");
        poll(NULL, 0, RETRY_MS / 5);
    }
    for (int i = 0; i < 200; i++)
        answered(sock, number++, size);
    limit = now_ns() + (uint64_t)(atof(words[3]) * 1e9);
    for (uint64_t start; (start = now_ns()) < limit && count < TRIPS_MAX;) {
        if (answered(sock, number++, size))
            taken[count++] = now_ns() - start;
        else
            lost++;
    }
    if (!count)
        fail("nothing came back");
    qsort(taken, count, sizeof *taken, compare_u64);
    printf("{\"trips\": %llu, \"lost\": %llu, \"p50_us\": %.3f, \"p99_us\": %.3f}\n", (unsigned long long)count,
           (unsigned long long)lost, (double)taken[count / 2] / 1e3, (double)taken[count * 99 / 100] / 1e3);
    return 0;
}

static int sink(const char *port) {
    int sock = listener(SOCK_DGRAM, port);
    static char buffers[TAKEN_AT_ONCE][DATAGRAM_MAX];
    struct iovec pieces[TAKEN_AT_ONCE];
    struct mmsghdr batch[TAKEN_AT_ONCE] = {0};
    for (int i = 0; i < TAKEN_AT_ONCE; i++) {
        pieces[i] = (struct iovec){buffers[i], DATAGRAM_MAX};
        batch[i].msg_hdr.msg_iov = &pieces[i];
        batch[i].msg_hdr.msg_iovlen = 1;
    }
    uint64_t count = 0, first = 0, last = 0;
    patience(sock, PATIENCE_MS);
    for (int got; (got = recvmmsg(sock, batch, TAKEN_AT_ONCE, MSG_WAITFORONE, NULL)) > 0;) {
        last = now_ns();
        if (!count) {
            first = last;
            patience(sock, SILENCE_MS);
        }
        count += (uint64_t)got;
    }
    printf("{\"received\": %llu, \"seconds\": %.6f}\n", (unsigned long long)count, (double)(last - first) / 1e9);
    return 0;
}

static int flood(char **words) {
    int sock = datagrams_to(words[0], words[1]), size = BUFFER / 2;
    double rate = atof(words[4]);
    if (setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
        setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    struct iovec piece = {data, (size_t)atoi(words[2])};
    struct mmsghdr batch[SENT_AT_ONCE] = {0};
    for (int i = 0; i < SENT_AT_ONCE; i++) {
        batch[i].msg_hdr.msg_iov = &piece;
        batch[i].msg_hdr.msg_iovlen = 1;
    }
    uint64_t start = now_ns(), end = start + (uint64_t)(atof(words[3]) * 1e9), now, sent = 0;
    while ((now = now_ns()) < end) {
        if (rate > 0 && (double)sent >= (double)(now - start) / 1e9 * rate) {
            nanosleep(&(struct timespec){0, 20000}, NULL);
            continue;
        }
        int done = sendmmsg(sock, batch, SENT_AT_ONCE, 0);
        if (done > 0)
            sent += (uint64_t)done;
        else if (errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED)
            fail("send");
    }
    printf("{\"sent\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent, (double)(now - start) / 1e9);
    return 0;
}

static int watch(int watcher, int sock, uint32_t events, int number) {
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)number};
    return epoll_ctl(watcher, EPOLL_CTL_ADD, sock, &event);
}

static int drain(char **words) {
    int flows = atoi(words[1]), watcher = epoll_create1(0), socks[FLOWS_MAX];
    uint64_t start = strtoull(words[2], NULL, 10), end = start + (uint64_t)(atof(words[3]) * 1e9);
    uint64_t counts[FLOWS_MAX] = {0}, now;
    if (flows > FLOWS_MAX)
        fail("too many flows");
    int server = listener(SOCK_STREAM, words[0]);
    for (int i = 0; i < flows; i++)
        if ((socks[i] = accept4(server, NULL, NULL, SOCK_NONBLOCK)) < 0 || watch(watcher, socks[i], EPOLLIN, i) < 0)
            fail("accept");
    struct epoll_event events[64];
    while ((now = now_ns()) < end) {
        int found = epoll_wait(watcher, events, 64, (int)((end - now) / 1000000) + 1);
        for (int i = 0; i < found; i++) {
            int number = (int)events[i].data.u32;
            ssize_t got = recv(socks[number], data, sizeof data, MSG_DONTWAIT);
            now = now_ns();
            if (got > 0 && now >= start && now < end)
                counts[number] += (uint64_t)got;
            if (got == 0)
                fail("a flow ended too early");
        }
    }
    printf("{\"bytes\": [");
    for (int i = 0; i < flows; i++)
        printf("%s%llu", i ? ", " : "", (unsigned long long)counts[i]);
    printf("]}\n");
    return 0;
}

static int spread(int count, char **words) {
    int flows = count - 3, watcher = epoll_create1(0), socks[FLOWS_MAX];
    uint64_t start = strtoull(words[1], NULL, 10), now;
    uint64_t end = start + (uint64_t)(atof(words[2]) * 1e9) + TAIL_MS * 1000000ull;
    if (flows > FLOWS_MAX)
        fail("too many flows");
    for (int i = 0; i < flows; i++) {
        struct sockaddr_in to = address(words[3 + i], words[0]);
        socks[i] = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(socks[i], IPPROTO_TCP, TCP_CONGESTION, "cubic", 5); /* hosts differ in their default */
        if (connect(socks[i], (void *)&to, sizeof to) < 0)
            fail(words[3 + i]);
        watch(watcher, socks[i], EPOLLOUT, i);
    }
    if (now_ns() + LEAD_MS * 1000000ull > start) {
        errno = ETIMEDOUT;
        fail("connected too late");
    }
    while ((now = now_ns()) < start - LEAD_MS * 1000000ull)
        poll(NULL, 0, 1);
    struct epoll_event events[64];
    while ((now = now_ns()) < end) {
        int found = epoll_wait(watcher, events, 64, (int)((end - now) / 1000000) + 1);
        for (int i = 0; i < found; i++)
            if (send(socks[events[i].data.u32], data, 128 << 10, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN) {
                if (now_ns() < end - TAIL_MS * 1000000ull)
                    fail("a flow broke");
                return 0;
            }
    }
    return 0;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (count == 3 && !strcmp(what, "echo"))
        echo(words[2]);
    if (count == 6 && !strcmp(what, "trips"))
        return trips(words + 2);
    if (count == 3 && !strcmp(what, "sink"))
        return sink(words[2]);
    if (count == 7 && !strcmp(what, "flood"))
        return flood(words + 2);
    if (count == 6 && !strcmp(what, "drain"))
        return drain(words + 2);
    if (count > 5 && !strcmp(what, "spread"))
        return spread(count - 2, words + 2);
    fprintf(stderr, "usage: see the head of frames.c\n");
    return 2;
}
