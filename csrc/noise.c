/* The same work again and again, in registers only: whatever its time varies by comes from the machine, not from the work. */
#include "pool.h"

struct spinning {
    int64_t iterations, chunks;
    int64_t *chunk_ns;
};

/* A chain in which each multiplication waits for the one before: no processor overlaps or shortens it. */
static void work_through(int64_t iterations)
{
    uint32_t word = 1;
    for (int64_t i = 0; i < iterations; i++) {
        word = word * 1664525u + 1013904223u;
        __asm__ volatile("" : "+r"(word)); /* no compiler unrolls it into a shorter one, or leaves it out */
    }
}

/* A chunk ends where the next begins, so that no moment between them is missing. */
static void spin(void *context, el_team team)
{
    struct spinning *s = context;
    int64_t *chunk_ns = s->chunk_ns + team.thread * s->chunks;
    int64_t begin = el_now_ns();
    for (int64_t chunk = 0; chunk < s->chunks; chunk++) {
        work_through(s->iterations);
        int64_t end = el_now_ns();
        chunk_ns[chunk] = end - begin;
        begin = end;
    }
}

int el_spin(el_pool *pool, int64_t iterations, int64_t chunks, int64_t *chunk_ns)
{
    struct spinning s = {iterations, chunks, chunk_ns};
    return el_pool_run(pool, spin, &s);
}
