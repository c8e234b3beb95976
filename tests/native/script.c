/* Does to a ring what the lines of its input say, and tells after each what came of it. Usage: script RING START
 *
 *   send SIZE SEED | batch N SIZE SEED | receive BUDGET | arm | disarm | arm_room SIZE | disarm_room
 *   overflow N | stray N | undefined N     mistakes that the sanitizers, or a guard, must catch
 */

#include "lab.h"

#include <limits.h>

static uint32_t crc32(const uint8_t *bytes, size_t size) {
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++)
                c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
            table[i] = c;
        }
    uint32_t crc = ~0u;
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 0xff];
    return ~crc;
}

/* From a buffer of just that size, so that the sanitizer knows its ends. */
static bool stage(struct producer *p, uint32_t size, uint32_t seed, uint32_t too_much) {
    uint8_t *bytes = malloc(size);
    fill(bytes, size, seed);
    bool staged = put(p, bytes, size + too_much, seed);
    free(bytes);
    return staged;
}

static void receive(struct consumer *c, long budget) {
    uint32_t length, tag;
    const uint8_t *payload;
    while (budget-- > 0 && (payload = consumer_peek(c, &length, &tag))) {
        uint8_t *bytes = malloc(length);
        memcpy(bytes, payload, length);
        printf("%u:%u:%08x ", tag, length, crc32(bytes, length));
        free(bytes);
        consumer_take(c, length);
    }
    consumer_release(c);
}

static int run(struct lab *lab, const char *word, long a, long b, long c) {
    struct producer *p = &lab->producer;
    if (!strcmp(word, "send") || !strcmp(word, "overflow")) {
        printf("%d ", stage(p, (uint32_t)a, (uint32_t)b, *word == 'o'));
        producer_publish(p);
    } else if (!strcmp(word, "batch")) {
        long sent = 0;
        while (sent < a && stage(p, (uint32_t)b, (uint32_t)(c + sent), 0))
            sent++;
        producer_publish(p);
        printf("%ld ", sent);
    } else if (!strcmp(word, "receive"))
        receive(&lab->consumer, a);
    else if (!strcmp(word, "arm"))
        printf("%d ", consumer_arm(&lab->consumer));
    else if (!strcmp(word, "disarm"))
        consumer_disarm(&lab->consumer);
    else if (!strcmp(word, "arm_room"))
        printf("%d ", producer_arm(p, (uint32_t)a));
    else if (!strcmp(word, "disarm_room"))
        producer_disarm(p);
    else if (!strcmp(word, "stray"))
        lab->data[2 * p->size + (uint64_t)a] = 1;
    else if (!strcmp(word, "undefined"))
        printf("%d ", INT_MAX - 1 + (int)a);
    else
        return 0;
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    int ring = atoi(argv[1]), bells[2] = {new_bell(), new_bell()};
    static struct lab lab;
    lab_map(&lab, ring);
    lab_join(&lab, ring, strtoull(argv[2], NULL, 0), bells[0], bells[1]);
    char line[200], word[32];
    while (fgets(line, sizeof line, stdin)) {
        long a = 0, b = 0, c = 0;
        if (sscanf(line, "%31s %ld %ld %ld", word, &a, &b, &c) < 1 || !run(&lab, word, a, b, c))
            return 2;
        printf("| %llu %llu %llu %llu | %llu %llu | %08x | %d\n",
               (unsigned long long)load(lab.producer.produced), (unsigned long long)load(lab.producer.consumed),
               (unsigned long long)load(lab.producer.armed_data),
               (unsigned long long)load(lab.producer.armed_room), (unsigned long long)rung(bells[0]),
               (unsigned long long)rung(bells[1]), crc32(lab.data, lab.producer.size), atomic_load(&lab.fault));
    }
    return 0;
}
