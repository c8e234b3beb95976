/*
 * The yardstick of large messages: what one core copies by itself. `memcpy MODE SIZE BUDGET_S [CPU CPU]`; prints its
 * figures as JSON. Source and destination walk through areas as large as the normal ring, as messages there do.
 */

#define _GNU_SOURCE
#include <sched.h>
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

int main(int argc, char **argv) {
    if (argc != 4 && argc != 6)
        return 2;
    if (argc == 6) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(atoi(argv[4]), &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    size = strtoul(argv[2], NULL, 0);
    room = size > AREA ? size : AREA;
    to = malloc(room), from = malloc(room);
    static uint64_t taken[TRIPS];
    if (!to || !from || !size)
        return 1;
    memset(from, 1, room), memset(to, 0, room);
    double budget_ns = atof(argv[3]) * 1e9 / 2;
    uint64_t trips = 0, copies = 0, start = now_ns(), now = start;
    while (trips < 50 || (trips < TRIPS && (double)(now - start) < budget_ns)) {
        copy();
        uint64_t then = now;
        now = now_ns();
        taken[trips++] = now - then;
    }
    start = now_ns();
    do {
        for (int i = 0; i < 64; i++)
            copy();
        copies += 64;
        now = now_ns();
    } while ((double)(now - start) < budget_ns);
    if (memcmp(to, from, size) != 0)
        return 1;
    qsort(taken, trips, sizeof *taken, compare_u64);
    printf("{\"p50_us\": %.4f, \"p99_us\": %.4f, \"rate\": %.1f, \"trips\": %llu, \"streamed\": %llu}\n",
           (double)taken[trips / 2] / 1e3, (double)taken[trips * 99 / 100] / 1e3,
           (double)copies / ((double)(now - start) / 1e9), (unsigned long long)trips, (unsigned long long)copies);
    return 0;
}
