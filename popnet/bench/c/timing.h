/*
 * The same measurement as timing.py, for wires in C. The program defines, before it includes this file,
 *
 *   static void wire_send(const uint8_t *data);         a message of wire_size bytes
 *   static void wire_receive(uint8_t *data);            into a buffer of as many
 *   static void wire_stream(const uint8_t *data, uint64_t count);         send, as fast as it goes
 *   static void wire_drain(uint8_t *last, uint64_t count);                receive as many; the last one
 *   static void control_tell(uint64_t task, uint64_t count);
 *   static uint64_t control_hear(uint64_t *count);                        the task
 *
 * and calls lead() in one process and follow() in the other. Every echo is compared outside the measured time.
 */

#ifndef POPNET_BENCH_TIMING_H
#define POPNET_BENCH_TIMING_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TASK_END, TASK_ECHO, TASK_COUNT };
enum { DISTINCT = 16, TRIED = 2000, TRIPS_MIN = 200, TRIPS_MAX = 1000000, STREAM_MIN = 1000 };
#define STREAM_MAX 50000000ull

static uint8_t *messages; /* DISTINCT of them */
static uint8_t *buffer;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void prepare(size_t size) {
    messages = malloc(size * DISTINCT);
    buffer = malloc(size);
    if (!messages || !buffer)
        fail("out of memory");
    uint64_t dice = size * 2654435761u + 1;
    for (size_t i = 0; i < size * DISTINCT; i++) { /* xorshift: the same in both processes */
        dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
        messages[i] = (uint8_t)dice;
    }
}

static int compare_u64(const void *one, const void *other) {
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

static uint64_t fitting(double each_ns, double budget_s, uint64_t least, uint64_t most) {
    double count = budget_s * 1e9 / (each_ns > 1 ? each_ns : 1);
    return count < (double)least ? least : count > (double)most ? most : (uint64_t)count;
}

static void echo_trips(uint64_t *taken, uint64_t count, size_t size) {
    control_tell(TASK_ECHO, count);
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *sent = messages + i % DISTINCT * size;
        uint64_t start = now_ns();
        wire_send(sent);
        wire_receive(buffer);
        taken[i] = now_ns() - start;
        if (memcmp(buffer, sent, size) != 0)
            fail("an echo differs from what was sent");
        buffer[0] ^= 0xff; /* or an echo that never came would look right */
    }
}

static uint64_t stream(uint64_t count, size_t size) {
    control_tell(TASK_COUNT, count);
    uint64_t start = now_ns();
    wire_stream(messages, count);
    wire_receive(buffer);
    uint64_t took = now_ns() - start, counted;
    memcpy(&counted, buffer, sizeof counted);
    if (counted != count || memcmp(buffer + 8, messages + 8, size - 8) != 0)
        fail("what was streamed did not arrive");
    return took;
}

static void lead(size_t size, double budget_s) {
    uint64_t *taken = malloc(TRIPS_MAX * sizeof *taken);
    if (!taken)
        fail("out of memory");
    uint64_t start = now_ns();
    echo_trips(taken, TRIED / 10, size);
    uint64_t trips = fitting((double)(now_ns() - start) / (TRIED / 10), budget_s / 2, TRIPS_MIN, TRIPS_MAX);
    echo_trips(taken, trips, size);
    uint64_t count = STREAM_MIN, took = stream(count, size);
    while ((double)took < budget_s * 1e9 / 20 && count < STREAM_MAX) {
        count = fitting((double)took / (double)count, budget_s / 2, STREAM_MIN, count * 16);
        took = stream(count, size);
    }
    count = fitting((double)took / (double)count, budget_s / 2, STREAM_MIN, STREAM_MAX);
    took = stream(count, size);
    control_tell(TASK_END, 0);
    qsort(taken, trips, sizeof *taken, compare_u64);
    printf("{\"p50_us\": %.4f, \"p99_us\": %.4f, \"rate\": %.1f, \"trips\": %llu, \"streamed\": %llu}\n",
           (double)taken[trips / 2] / 2e3, (double)taken[trips * 99 / 100] / 2e3, (double)count / ((double)took / 1e9),
           (unsigned long long)trips, (unsigned long long)count);
}

static void follow(size_t size) {
    uint64_t count, task;
    while ((task = control_hear(&count)) != TASK_END) {
        if (task == TASK_ECHO)
            for (uint64_t i = 0; i < count; i++) {
                wire_receive(buffer);
                wire_send(buffer);
            }
        else {
            wire_drain(buffer, count);
            int right = memcmp(buffer, messages, size) == 0;
            memcpy(buffer, &count, sizeof count);
            if (!right)
                memset(buffer, 0, size);
            wire_send(buffer);
        }
    }
}

#endif
