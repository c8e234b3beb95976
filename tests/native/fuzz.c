/* A mad peer: writes what it likes, where it likes, into its window, while a victim goes on using the ring.
 *
 * Usage: fuzz SEED SECONDS (or -EXECUTIONS)
 * One execution is a new link and up to 64 turns: the peer writes into its words or its data (values near what
 * they were, near every limit, or any), or forges a whole run of records, of which each may lie; then the victim
 * produces, one record or a ring full, consumes or arms. In every second execution
 * the peer also writes from a thread of its own, between any two instructions of the victim. The victim reads
 * each byte that a record is said to have; guards and the sanitizer see what lies outside. What may happen is a
 * record or a fault, and never the end of a loop that does not come. For a negative control: CARELESS believes
 * every length.
 *
 * With COVERAGE it is a target of libFuzzer instead: an input is one execution, its bytes are what the dice show,
 * and the fuzzer looks for inputs that reach new code. No thread of the peer then: an input has to do the same
 * each time.
 */

#include "lab.h"

#include <pthread.h>
#include <time.h>

#define TURNS 64
#define FAULTS (FAULT_FRAME_LENGTH + 1)

struct dice {
    uint64_t state;
    const uint8_t *bytes, *end; /* with COVERAGE: what they show */
};

#ifdef COVERAGE
static uint64_t shown(struct dice *d, size_t size) {
    uint64_t value = 0;
    size_t left = (size_t)(d->end - d->bytes);
    memcpy(&value, d->bytes, left < size ? left : size);
    d->bytes += left < size ? left : size;
    return value;
}

static uint64_t throw(struct dice *d) { return shown(d, 8); }

static uint64_t below(struct dice *d, uint64_t limit) { return shown(d, limit <= 256 ? 1 : 4) % limit; }
#else
static uint64_t throw(struct dice *d) {
    d->state ^= d->state << 13;
    d->state ^= d->state >> 7;
    d->state ^= d->state << 17;
    return d->state * 0x2545f4914f6cdd1dull;
}

static uint64_t below(struct dice *d, uint64_t limit) { return (throw(d) >> 11) % limit; }
#endif

/* The victim's two ends: it consumes from the mad peer's ring `in`, and produces into its own, `out`, of which
 * the peer has the consumer's words. */
static struct lab in, out;
static int ring, bell;
static uint64_t faults[FAULTS], records, sum;

static uint64_t number(struct dice *d, uint64_t near) {
    uint64_t size = RING_SIZE[ring];
    switch (below(d, 8)) {
    case 0: return throw(d);
    case 1: return near + below(d, 2 * size);
    case 2: return near + size;
    case 3: return near + size + 64 * below(d, 3) - 64;
    case 4: return near - 64 * below(d, 1024);
    case 5: return near + below(d, 3) - 1;
    default: return near + 64 * below(d, 16);
    }
}

#ifdef COVERAGE
/* What the peer wrote, so that the next execution finds none of it: to clear a whole ring is most of the time. */
static uint8_t *written[TURNS * 40];
static size_t writes;

static void forget(void) {
    while (writes)
        memset(written[--writes], 0, 4);
}
#endif

static void put_half(uint8_t *at, uint32_t value) {
#ifdef COVERAGE
    if (writes == sizeof written / sizeof *written)
        abort();
    written[writes++] = at;
#endif
    atomic_store_explicit((half_word *)at, value, memory_order_relaxed);
}

/* One thing that the peer does to its window. */
static void lie(struct dice *d, uint64_t produced, uint64_t consumed) {
    static const uint32_t LENGTHS[] = {0, 1, 55, 56, 57, 64, 4096, 1u << 15, 1u << 16, 1u << 18, 1u << 31, ~0u};
    uint64_t where = (produced + 64 * below(d, 64) - 64 * below(d, 64)) & (RING_SIZE[ring] - 1) & ~63ull;
    switch (below(d, 8)) {
    case 0:
    case 1: store(slot(in.words, SLOT_PRODUCED + ring), number(d, produced)); break;
    case 2: store(slot(out.peer_words, SLOT_CONSUMED + ring), number(d, consumed)); break;
    case 3: store(slot(in.words, SLOT_ARMED_ROOM + ring), throw(d) >> below(d, 64)); break;
    case 4: store(slot(out.peer_words, SLOT_ARMED_DATA + ring), throw(d) >> below(d, 64)); break;
    case 5: put_half(in.data + where, (uint32_t)throw(d)); break;
    case 6: put_half(in.data + where, LENGTHS[below(d, sizeof LENGTHS / sizeof *LENGTHS)]); break;
    default:
        put_half(in.data + where, PAYLOAD_MAX[ring] + (uint32_t)below(d, 130) - 65);
        put_half(in.data + where + 4, (uint32_t)throw(d));
    }
}

/* Records one behind the other, as a good peer writes them, but for what the dice want; then made known. */
static void forge(struct dice *d, uint64_t at) {
    for (uint64_t n = below(d, 16); n; n--) {
        uint32_t length = (uint32_t)below(d, PAYLOAD_MAX[ring] + 1);
        uint8_t *header = in.data + (at & (RING_SIZE[ring] - 1));
        put_half(header, below(d, 16) ? length : length + (uint32_t)throw(d));
        put_half(header + 4, (uint32_t)throw(d));
        if (at + span_of(length) - in.consumer.released > RING_SIZE[ring])
            break;
        at += span_of(length);
    }
    store(slot(in.words, SLOT_PRODUCED + ring), at);
}

static atomic_int lying; /* 0 idle, 1 lying, -1 to end */

#ifndef COVERAGE
static void *liar(void *seed) {
    struct dice d = {.state = (uint64_t)(uintptr_t)seed};
    for (int now; (now = atomic_load(&lying)) >= 0;)
        if (now)
            lie(&d, load(slot(in.words, SLOT_PRODUCED + ring)), load(slot(out.words, SLOT_PRODUCED + ring)));
        else {
            struct timespec a_little = {.tv_nsec = 10000};
            nanosleep(&a_little, NULL);
        }
    return NULL;
}
#endif

static const uint8_t *peek(struct consumer *c, uint32_t *length, uint32_t *tag) {
#ifdef CARELESS
    if (!consumer_look(c) || c->produced_seen == c->taken)
        return NULL;
    const uint8_t *record = c->data + (c->taken & (c->size - 1));
    memcpy(length, record, 4), memcpy(tag, record + 4, 4);
    return record + RECORD_HEADER_SIZE;
#else
    return consumer_peek(c, length, tag);
#endif
}

static void consume(struct dice *d) {
    struct consumer *c = &in.consumer;
    uint32_t length, tag;
    uint64_t budget = below(d, 40), most = c->size / RECORD_ALIGN;
    for (const uint8_t *payload; budget && (payload = peek(c, &length, &tag)); budget--) {
        for (uint32_t i = 0; i < length; i += 1 + (length > 200) * (uint32_t)below(d, 600))
            sum += ((volatile const uint8_t *)payload)[i];
        sum += length ? ((volatile const uint8_t *)payload)[length - 1] : 0;
        consumer_take(c, length);
        records++;
        if (c->taken - c->released > c->size || most-- == 0)
            abort();
    }
    consumer_release(c);
}

static void produce(struct dice *d) {
    static uint8_t bytes[1u << 17];
    struct producer *p = &out.producer;
    bool batch = below(d, 8) == 0;
    uint32_t size = (uint32_t)(below(d, 4) ? below(d, 300) : below(d, PAYLOAD_MAX[ring] + 1));
    for (uint64_t n = batch ? 400 : below(d, 4); n; n--)
        if (!put(p, bytes, size, 0) && batch)
            break;
    if (p->staged - p->consumed_seen > p->size)
        abort();
    producer_publish(p);
}

static void execute(struct dice *d, bool racing) {
    uint64_t start = below(d, 2) ? 0 : 0ull - 64 * below(d, 5000);
    lab_join(&in, ring, start, bell, bell);
    lab_join(&out, ring, start, bell, bell);
    atomic_store(&lying, racing);
    for (uint64_t turns = below(d, TURNS); turns && !atomic_load(&in.fault) && !atomic_load(&out.fault); turns--) {
        for (uint64_t lies = below(d, 4); lies; lies--)
            lie(d, in.consumer.taken, out.producer.published);
        if (below(d, 4) == 0)
            forge(d, in.consumer.produced_seen);
        switch (below(d, 5)) {
        case 0: consumer_arm(&in.consumer); break;
        case 1: producer_arm(&out.producer, (uint32_t)below(d, PAYLOAD_MAX[ring] + 1)); break;
        case 2: produce(d); break;
        default: consume(d);
        }
    }
    atomic_store(&lying, 0);
    int fault = atomic_load(&in.fault) ? atomic_load(&in.fault) : atomic_load(&out.fault);
    if ((fault & 0xff) >= FAULTS || (fault && fault >> 8 != ring))
        abort();
    faults[fault & 0xff]++;
    rung(bell);
}

#ifdef COVERAGE
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static struct lab ins[RINGS], outs[RINGS];
    if (!in.data) {
        bell = new_bell();
        for (int i = 0; i < RINGS; i++)
            lab_map(&ins[i], i), lab_map(&outs[i], i);
    }
    struct dice d = {.bytes = bytes, .end = bytes + size};
    ring = (int)below(&d, RINGS);
    in = ins[ring], out = outs[ring];
    execute(&d, false);
    forget();
    return 0;
}
#else
int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    struct dice d = {.state = strtoull(argv[1], NULL, 0) * 2 + 1};
    long limit = atol(argv[2]);
    static struct lab ins[RINGS], outs[RINGS];
    time_t end = time(NULL) + limit;
    pthread_t thread;
    bell = new_bell();
    for (int i = 0; i < RINGS; i++)
        lab_map(&ins[i], i), lab_map(&outs[i], i);
    in = ins[HIGH], out = outs[HIGH];
    for (int i = 0; i < 20; i++)
        throw(&d);
    uint64_t executions = 0;
    while (limit < 0 ? executions < (uint64_t)-limit : time(NULL) < end) {
        ring = (int)below(&d, RINGS); /* between two threads: nobody else is there */
        in = ins[ring], out = outs[ring];
        bool racing = pthread_create(&thread, NULL, liar, (void *)(uintptr_t)(throw(&d) | 1)) == 0;
        for (int i = 0; i < 200; i++, executions++)
            execute(&d, racing && i % 2);
        if (racing) {
            atomic_store(&lying, -1);
            pthread_join(thread, NULL);
            atomic_store(&lying, 0);
        }
    }
    printf("%llu executions, %llu records\n", (unsigned long long)executions, (unsigned long long)records);
    for (int i = 0; i < FAULTS; i++)
        printf("%10llu  %s\n", (unsigned long long)faults[i], i ? FAULT_TEXT[i] : "no fault");
    return 0;
}
#endif
