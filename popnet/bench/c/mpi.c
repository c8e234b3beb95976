/* MPI from C, two ranks: `mpiexec -n 2 mpi MODE SIZE BUDGET_S [CPU CPU]`; prints its figures as JSON. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <mpi.h>
#include <sched.h>
#include <stdint.h>
#include <unistd.h>

enum { ALARM_S = 60 };

static int wire_size, rank;

static void wire_send(const uint8_t *data) { MPI_Send(data, wire_size, MPI_BYTE, !rank, 0, MPI_COMM_WORLD); }

static void wire_receive(uint8_t *data) {
    MPI_Recv(data, wire_size, MPI_BYTE, !rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

static void wire_stream(const uint8_t *data, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        wire_send(data);
}

static void wire_drain(uint8_t *last, uint64_t count) {
    for (uint64_t i = 0; i < count; i++)
        wire_receive(last);
}

static void control_tell(uint64_t task, uint64_t count) {
    uint64_t packet[2] = {task, count};
    MPI_Bcast(packet, 2, MPI_UINT64_T, 0, MPI_COMM_WORLD);
}

static uint64_t control_hear(uint64_t *count) {
    uint64_t packet[2];
    MPI_Bcast(packet, 2, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    *count = packet[1];
    return packet[0];
}

#include "timing.h"

int main(int argc, char **argv) {
    int ranks;
    alarm(ALARM_S);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != 2 || (argc != 4 && argc != 6))
        fail("usage: mpiexec -n 2 mpi MODE SIZE BUDGET_S [CPU CPU]");
    if (argc == 6) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(atoi(argv[4 + rank]), &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    wire_size = atoi(argv[2]);
    prepare((size_t)wire_size);
    if (rank)
        follow((size_t)wire_size);
    else
        lead((size_t)wire_size, atof(argv[3]));
    MPI_Finalize();
    return 0;
}
