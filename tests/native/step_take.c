/* Kills a consumer at every single instruction of a take, and looks what the producer then has.
 *
 * Usage: step_take SIZE RECORDS START
 * A child takes RECORDS records of SIZE bytes into memory that outlives it and releases them together, while the
 * producer waits for room; its parent lets it take i single steps, then kills it, for every i until all is done.
 * The producer must find all of the space given back or none; never that of a record which was not read yet; no
 * fault; a ring that it can fill to the brim; and whoever consumes next, from where the dead one released, gets
 * every record whole and in order. For a negative control: HASTY releases before it reads.
 */

#include "step.h"

#define RECORDS_MAX 8
#define PAYLOAD 2048u

static struct lab lab;
static uint8_t bytes[RECORDS_MAX + 1][PAYLOAD];
static uint8_t (*got)[PAYLOAD]; /* shared: what the dead has read */

static void take_all(uint32_t size, uint32_t records) {
    struct consumer *c = &lab.consumer;
    uint32_t length, tag;
    const uint8_t *payload;
#ifdef HASTY
    store(c->consumed, c->taken + records * span_of(size));
#endif
    for (uint32_t i = 0; i < records && (payload = consumer_peek(c, &length, &tag)); i++) {
        memcpy(got[i], payload, size);
        consumer_take(c, length);
    }
    consumer_release(c);
}

static int wrong(long steps, const char *what) {
    printf("after %ld steps: %s; fault %d\n", steps, what, atomic_load(&lab.fault));
    return 5;
}

/* All records from `first` on and then `filled_in` more, as the next consumer gets them. */
static bool whole(uint32_t size, uint32_t first, uint32_t records, uint32_t filled_in) {
    uint32_t length, tag;
    const uint8_t *payload;
    uint64_t from = load(lab.consumer.consumed);
    lab.consumer.taken = lab.consumer.released = lab.consumer.produced_seen = from;
    for (uint32_t i = first; i < records + filled_in; i++) {
        uint32_t seed = i < records ? i : RECORDS_MAX;
        payload = consumer_peek(&lab.consumer, &length, &tag);
        if (!payload || length != size || tag != seed || !filled(payload, length, seed))
            return false;
        consumer_take(&lab.consumer, length);
    }
    return !consumer_peek(&lab.consumer, &length, &tag);
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    uint32_t size = (uint32_t)atol(argv[1]), records = (uint32_t)atol(argv[2]);
    uint64_t start = strtoull(argv[3], NULL, 0);
    int bell = new_bell();
    long released_at = -1, kicked_at = -1, steps = 0;
    if (size > PAYLOAD || records > RECORDS_MAX)
        return 2;
    for (uint32_t i = 0; i <= RECORDS_MAX; i++)
        fill(bytes[i], PAYLOAD, i);
    got = mmap(NULL, sizeof bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED)
        die("mmap");
    lab_map(&lab, HIGH);
    for (bool died = true; died; steps++) {
        struct producer *p = &lab.producer;
        lab_join(&lab, HIGH, start, bell, -1);
        memset(lab.data, 0xee, RING_SIZE[HIGH]);
        memset(got, 0xee, sizeof bytes);
        for (uint32_t i = 0; i < records; i++)
            put(p, bytes[i], size, i);
        producer_publish(p);
        producer_declare(p); /* as if the producer slept */
        rung(bell);
        died = kill_after(steps, take_all, size, records);
        if (!producer_look(p))
            return wrong(steps, "the producer does not believe the dead");
        uint64_t released = p->consumed_seen - start;
        if (released != 0 && released != records * span_of(size))
            return wrong(steps, "a part of the space came back");
        if (!released && released_at >= 0)
            return wrong(steps, "space that was there is gone");
        for (uint32_t i = 0; released && i < records; i++)
            if (!filled(got[i], size, i))
                return wrong(steps, "space came back before its record was read");
        uint32_t filled_in = 0;
        while (put(p, bytes[RECORDS_MAX], size, RECORDS_MAX))
            filled_in++;
        producer_publish(p);
        if (filled_in != (p->size - (released ? 0 : records * span_of(size))) / span_of(size))
            return wrong(steps, "the ring does not fill");
        if (!whole(size, released ? records : 0, records, filled_in))
            return wrong(steps, "the next consumer gets something else");
        if (atomic_load(&lab.fault))
            return wrong(steps, "a fault");
        if (released && released_at < 0)
            released_at = steps;
        if (rung(bell) && kicked_at < 0)
            kicked_at = steps;
    }
    printf("%ld steps, there from %ld on, kicked from %ld on\n", steps - 1, released_at, kicked_at);
    return released_at < 0;
}
