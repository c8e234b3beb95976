/* A producer and a consumer in two threads, each sleeping at its eventfd when it must. Usage: threads RECORDS
 *
 * Both use one mapping: a race detector knows memory by its address, and would take two views for two memories.
 * For negative controls: WEAKEN_ACQUIRE, WEAKEN_RELEASE (lab.h), PLAIN_WORD.
 */

#include "lab.h"

#include <poll.h>
#include <pthread.h>

static struct lab lab;
static int producer_bell, consumer_bell;
static long records;
static uint64_t sleeps[2]; /* of the producer, of the consumer */

#ifdef PLAIN_WORD
static uint64_t plain;
#define TOUCH() (plain++)
#else
#define TOUCH() ((void)0)
#endif

static uint32_t size_of(long record) { return (uint32_t)(record * 2654435761u >> 8) % 3000; }

/* A lost wake-up ends the process, instead of hanging it. */
static void sleep_at(int bell, uint64_t *count) {
    struct pollfd waits = {.fd = bell, .events = POLLIN};
    if (poll(&waits, 1, 60000) != 1) {
        fprintf(stderr, "a wake-up was lost\n");
        _exit(4);
    }
    ++*count;
    rung(bell);
}

static void *produce(void *unused) {
    struct producer *p = &lab.producer;
    for (long i = 0; i < records; i++) {
        uint32_t size = size_of(i);
        uint8_t bytes[3000];
        fill(bytes, size, (uint32_t)i);
        while (!put(p, bytes, size, (uint32_t)i)) {
            producer_publish(p);
            if (producer_arm(p, size)) {
                sleep_at(producer_bell, &sleeps[0]);
                producer_disarm(p);
            }
        }
        if (i % 3 == 0) /* batches of three */
            producer_publish(p);
        TOUCH();
    }
    producer_publish(p);
    return unused;
}

static void *consume(void *unused) {
    struct consumer *c = &lab.consumer;
    for (long i = 0; i < records;) {
        uint32_t length, tag;
        const uint8_t *payload = consumer_peek(c, &length, &tag);
        if (payload) {
            if (tag != (uint32_t)i || length != size_of(i) || !filled(payload, length, tag)) {
                fprintf(stderr, "record %ld is torn\n", i);
                _exit(5);
            }
            consumer_take(c, length);
            i++;
            TOUCH();
            if (i % 5 == 0)
                consumer_release(c);
            continue;
        }
        consumer_release(c);
        if (consumer_arm(c)) {
            sleep_at(consumer_bell, &sleeps[1]);
            consumer_disarm(c);
        }
    }
    consumer_release(c);
    return unused;
}

int main(int argc, char **argv) {
    pthread_t threads[2];
    if (argc != 2)
        return 2;
    records = atol(argv[1]);
    producer_bell = new_bell(), consumer_bell = new_bell();
    lab_map(&lab, HIGH);
    lab.view = lab.data;
    lab_join(&lab, HIGH, 0ull - 4096, producer_bell, consumer_bell);
    if (pthread_create(&threads[0], NULL, produce, NULL) || pthread_create(&threads[1], NULL, consume, NULL))
        die("pthread_create");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    printf("%ld records, %llu sleeps for room, %llu for data, fault %d\n", records,
           (unsigned long long)sleeps[0], (unsigned long long)sleeps[1], atomic_load(&lab.fault));
    return atomic_load(&lab.fault) ? 6 : 0;
}
