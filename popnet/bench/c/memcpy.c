/*
 * The yardstick of large messages: what one core copies. `memcpy MODE SIZE BUDGET_S [CPU CPU]`; prints its figures as
 * JSON. Source and destination walk through areas as large as the normal ring, as messages there do.
 *
 *   own     what this core has in its caches itself
 *   other   what another core has written just before, as the bytes of any message have been: the limit of whatever
 *           passes data between two cores
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { AREA = 256 << 10, TRIPS = 20000 };

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare_u64(const void *one, const void *other) {
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

static uint8_t *to, *from;
static size_t size, room, at;

static void copy(void) {
    memcpy(to + at, from + at, size);
    __asm__ volatile("" ::: "memory"); /* it happens each time */
    at = at + 2 * size <= room ? at + size : 0;
}

static _Atomic uint64_t asked, written; /* how often the other core was asked to write the area, and did */
static int other_cpu = -1;

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void *write_when_asked(void *unused) {
    if (other_cpu >= 0)
        pin(other_cpu);
    for (uint64_t done = 0;;) {
        if (atomic_load(&asked) == done) {
            sched_yield();
            continue;
        }
        done++;
        memset(from, (int)(done & 0xff), room);
        atomic_store(&written, done);
    }
    return unused;
}

static void let_other_write(void) {
    uint64_t turn = atomic_fetch_add(&asked, 1) + 1;
    while (atomic_load(&written) < turn)
        sched_yield();
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 6)
        return 2;
    bool other = strcmp(argv[1], "other") == 0;
    if (argc == 6) {
        pin(atoi(argv[4]));
        other_cpu = atoi(argv[5]);
    }
    size = strtoul(argv[2], NULL, 0);
    room = size > AREA ? size : AREA;
    to = malloc(room), from = malloc(room);
    static uint64_t taken[TRIPS];
    if (!to || !from || !size)
        return 1;
    memset(from, 1, room), memset(to, 0, room);
    pthread_t writer;
    if (other && pthread_create(&writer, NULL, write_when_asked, NULL) != 0)
        return 1;
    double budget_ns = atof(argv[3]) * 1e9, copying_ns = 0;
    uint64_t trips = 0, copies = 0, start = now_ns();
    while (trips < 50 || (double)(now_ns() - start) < budget_ns) {
        if (other)
            let_other_write();
        at = 0;
        uint64_t began = now_ns(), here = 0;
        do {
            copy();
            here++;
        } while (at != 0);
        uint64_t took = now_ns() - began;
        if (trips < TRIPS)
            taken[trips++] = took / here;
        copies += here;
        copying_ns += (double)took;
    }
    if (memcmp(to, from, size) != 0)
        return 1;
    qsort(taken, trips, sizeof *taken, compare_u64);
    printf("{\"p50_us\": %.4f, \"p99_us\": %.4f, \"rate\": %.1f, \"trips\": %llu, \"streamed\": %llu}\n",
           (double)taken[trips / 2] / 1e3, (double)taken[trips * 99 / 100] / 1e3,
           (double)copies / (copying_ns / 1e9), (unsigned long long)trips, (unsigned long long)copies);
    return 0;
}
