/* Kills a producer at every single instruction of a put, and looks what the consumer then has.
 *
 * Usage: step SIZE RECORDS START ARMED
 * A child puts RECORDS records of SIZE bytes, published together, into a ring with EARLIER records in it; its
 * parent lets it take i single steps, then kills it, for every i until the put is done. The consumer must find
 * the earlier records as they were; then all of the new ones or none; no fault; and from the first i at which
 * they are there on, at each. For a negative control: HASTY publishes before it writes.
 */

#include "step.h"

#define EARLIER 3
#define EARLIER_SIZE 100u

#define RECORDS_MAX 8

static struct lab lab;
static uint8_t bytes[EARLIER + RECORDS_MAX][2048]; /* what each record shall be */

static void put_all(uint32_t size, uint32_t records) {
    struct producer *p = &lab.producer;
#ifdef HASTY
    store(p->produced, p->staged + records * span_of(size));
#endif
    for (uint32_t i = 0; i < records; i++)
        put(p, bytes[EARLIER + i], size, EARLIER + i);
    producer_publish(p);
}

static bool take(uint32_t size, uint32_t seed) {
    uint32_t length, tag;
    const uint8_t *payload = consumer_peek(&lab.consumer, &length, &tag);
    if (!payload)
        return false;
    if (length != size || tag != seed || !filled(payload, length, tag)) {
        printf("record %u is torn\n", seed);
        exit(5);
    }
    consumer_take(&lab.consumer, length);
    return true;
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    uint32_t size = (uint32_t)atol(argv[1]), records = (uint32_t)atol(argv[2]);
    uint64_t start = strtoull(argv[3], NULL, 0);
    int bell = new_bell();
    long delivered_at = -1, kicked_at = -1, steps = 0;
    if (size > sizeof bytes[0] || records > RECORDS_MAX)
        return 2;
    for (uint32_t i = 0; i < EARLIER + records; i++)
        fill(bytes[i], sizeof bytes[i], i);
    lab_map(&lab, HIGH);
    for (bool died = true; died; steps++) {
        lab_join(&lab, HIGH, start, -1, bell);
        memset(lab.data, 0xee, RING_SIZE[HIGH]);
        for (uint32_t i = 0; i < EARLIER; i++)
            put(&lab.producer, bytes[i], EARLIER_SIZE, i);
        producer_publish(&lab.producer);
        if (atoi(argv[4])) /* as if the consumer slept */
            consumer_declare(&lab.consumer);
        rung(bell);
        died = kill_after(steps, put_all, size, records);
        for (uint32_t i = 0; i < EARLIER; i++)
            if (!take(EARLIER_SIZE, i))
                return puts("an earlier record is lost"), 5;
        uint32_t new = 0;
        while (new < records && take(size, EARLIER + new))
            new++;
        uint32_t length, tag;
        bool more = consumer_peek(&lab.consumer, &length, &tag);
        consumer_release(&lab.consumer);
        if (more || atomic_load(&lab.fault))
            return printf("after %ld steps: fault %d\n", steps, atomic_load(&lab.fault)), 5;
        if ((new != 0 && new != records) || (delivered_at >= 0 && new == 0))
            return printf("after %ld steps: %u of %u records\n", steps, new, records), 5;
        if (new && delivered_at < 0)
            delivered_at = steps;
        if (rung(bell) && kicked_at < 0)
            kicked_at = steps;
    }
    printf("%ld steps, there from %ld on, kicked from %ld on\n", steps - 1, delivered_at, kicked_at);
    return delivered_at < 0;
}
