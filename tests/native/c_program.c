/*
 * A kernel's end of a link, in C: what a program needs of popnet_link.h and popnet_messages.h, and no more.
 *
 *     c_program SOCKET      a packet socket, inherited: both ends' window and doorbell go over it
 *
 * It answers until it is told to QUIT:
 *   ECHO      a message: sent back, on the ring it came on
 *   REVERSE   a call: answered with the body reversed; with an error for an empty one
 *   ASK       a message: its body goes out as a call of ANSWER_ME, whose answer is sent back as ASK
 *   anything else gets UNKNOWN, and what is meant for another generation STALE
 */

#include "popnet_link.h"
#include "popnet_messages.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

_Static_assert(POPNET_RING_HIGH_SIZE == RING_HIGH_SIZE && POPNET_RING_NORMAL_SIZE == RING_NORMAL_SIZE, "rings");
_Static_assert(POPNET_RECORD_ALIGN == RECORD_ALIGN && POPNET_RECORD_HEADER_SIZE == RECORD_HEADER_SIZE, "records");
_Static_assert((int)POPNET_RING_HIGH == HIGH && (int)POPNET_RING_NORMAL == NORMAL, "numbers of rings");

enum { QUIT = POPNET_USER_FIRST, ECHO, REVERSE, ASK, ANSWER_ME };
enum { KID = 2, GENERATION = 5, ALARM_S = 100 };

static struct popnet_link peer;
static uint32_t peer_generation;

/* One message a ring is put together at a time. */
struct message {
    uint32_t kind, flags, id, size;
    uint8_t *body;
};
static struct message parts[NORMAL + 1];

static void fail(const char *what) {
    fprintf(stderr, "c_program: %s\n", what);
    exit(1);
}

static void post(int ring, uint32_t kind, uint32_t flags, uint32_t id, const uint8_t *body, uint32_t size) {
    uint32_t most = ring == HIGH ? POPNET_FRAGMENT_HIGH_MAX : POPNET_FRAGMENT_NORMAL_MAX;
    struct popnet_header header = {id, peer_generation};
    do {
        uint32_t part = size < most ? size : most;
        uint32_t more = size > part ? POPNET_FLAG_MORE : 0;
        uint8_t *to = popnet_reserve(&peer, ring, sizeof header + part);
        if (!to)
            fail("the link is broken");
        memcpy(to, &header, sizeof header);
        if (part)
            memcpy(to + sizeof header, body, part);
        producer_stage(&peer.out[ring], sizeof header + part, popnet_tag(kind, flags | more));
        producer_publish(&peer.out[ring]);
        body += part;
        size -= part;
    } while (size);
}

static void post_u32(int ring, uint32_t kind, uint32_t value) {
    post(ring, kind, 0, 0, (const uint8_t *)&value, sizeof value);
}

/* Take one record in; the message it completes, or NULL. Its body is ours until the next one of that ring. */
static struct message *next_message(int *ring) {
    uint32_t size, tag;
    const uint8_t *record = popnet_receive_any(&peer, ring, &size, &tag);
    struct popnet_header header;
    if (!record || size < sizeof header)
        fail("the peer spoke nonsense");
    memcpy(&header, record, sizeof header);
    struct message *message = &parts[*ring];
    if (message->flags != (POPNET_FLAG_MORE | popnet_flags(tag)) || message->kind != popnet_kind(tag))
        message->size = 0; /* the first part */
    uint32_t part = size - (uint32_t)sizeof header;
    if (message->size + part > POPNET_MESSAGE_SIZE_MAX)
        fail("a message too long");
    message->body = realloc(message->body, message->size + part + 1);
    if (!message->body)
        fail("out of memory");
    memcpy(message->body + message->size, record + sizeof header, part);
    popnet_done(&peer, *ring, size);
    message->size += part;
    message->kind = popnet_kind(tag);
    message->flags = popnet_flags(tag);
    message->id = header.id;
    if (header.generation != GENERATION) {
        message->size = 0;
        if (message->kind != POPNET_STALE && message->kind != POPNET_UNKNOWN)
            post_u32(*ring, POPNET_STALE, GENERATION);
        return NULL;
    }
    if (message->flags & POPNET_FLAG_MORE)
        return NULL;
    return message;
}

static void ask(int ring, const struct message *question) {
    static uint32_t calls;
    post(ring, ANSWER_ME, POPNET_FLAG_REQUEST, ++calls, question->body, question->size);
    for (;;) {
        struct message *answer = next_message(&ring);
        if (!answer || !(answer->flags & POPNET_FLAG_ANSWER) || answer->id != calls)
            continue; /* the test sends nothing else meanwhile */
        post(ring, ASK, 0, 0, answer->body, answer->size);
        answer->size = 0;
        return;
    }
}

static void reverse(int ring, const struct message *call) {
    static const char error[] = "{\"code\":\"refused\",\"message\":\"nothing to reverse\",\"hint\":\"send some\"}";
    if (call->size == 0) {
        uint32_t flags = POPNET_FLAG_ANSWER | POPNET_FLAG_ERROR;
        post(ring, REVERSE, flags, call->id, (const uint8_t *)error, sizeof error - 1);
        return;
    }
    for (uint32_t i = 0; i < call->size / 2; i++) {
        uint8_t byte = call->body[i];
        call->body[i] = call->body[call->size - 1 - i];
        call->body[call->size - 1 - i] = byte;
    }
    post(ring, REVERSE, POPNET_FLAG_ANSWER, call->id, call->body, call->size);
}

/* False: it was QUIT. */
static bool handle(int ring, struct message *message) {
    switch (message->kind) {
    case QUIT:
        return false;
    case ECHO:
        post(ring, ECHO, 0, 0, message->body, message->size);
        break;
    case REVERSE:
        reverse(ring, message);
        break;
    case ASK:
        ask(ring, message);
        break;
    case POPNET_UNKNOWN:
        break;
    case POPNET_STALE:
        fail("this is another generation of the peer");
        break;
    default:
        post_u32(ring, POPNET_UNKNOWN, message->kind);
    }
    message->size = 0;
    return true;
}

/* Exchange window and doorbell: one packet each way, JSON that says nothing and two descriptors. */
static void give(int socket, const int fds[2]) {
    char text[] = "{}";
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec data = {text, 2};
    struct msghdr packet = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&packet);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(rights), fds, 2 * sizeof(int));
    if (sendmsg(socket, &packet, MSG_NOSIGNAL) != 2)
        fail("no offer sent");
}

static void take(int socket, int fds[2]) {
    char text[64];
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control;
    struct iovec data = {text, sizeof text};
    struct msghdr packet = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(socket, &packet, MSG_CMSG_CLOEXEC) <= 0)
        fail("no offer came");
    struct cmsghdr *rights = CMSG_FIRSTHDR(&packet);
    if (!rights || rights->cmsg_type != SCM_RIGHTS || rights->cmsg_len != CMSG_LEN(2 * sizeof(int)))
        fail("an offer without a window and a doorbell");
    memcpy(fds, CMSG_DATA(rights), 2 * sizeof(int));
}

int main(int argc, char **argv) {
    if (argc != 2)
        fail("usage: c_program SOCKET");
    alarm(ALARM_S);
    int socket = atoi(argv[1]), theirs[2];
    struct popnet_window own, other;
    take(socket, theirs);
    if (!popnet_window_attach(&other, theirs[0]))
        fail("the peer's window is unfit");
    word *header = slot(other.header, 0);
    peer_generation = (uint32_t)load(&header[HEADER_GENERATION]);
    int bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (bell < 0 || !popnet_window_create(&own, KID, GENERATION, (uint32_t)load(&header[HEADER_KID])))
        fail("no window of our own");
    popnet_join(&peer, &own, &other, bell, theirs[1]);
    give(socket, (int[2]){own.fd, bell});
    for (;;) {
        int ring;
        struct message *message = next_message(&ring);
        if (message && !handle(ring, message))
            return 0;
    }
}
