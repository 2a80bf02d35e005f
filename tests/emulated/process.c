/* The kernels in a process of their own, for an emulator to run: `process FD ADDRESS BYTES` maps that file at that address, where
 * the process that asks has it too, so that pointers into it mean the same to both. The structs have one layout on both machines. A
 * request on standard input is eight 64-bit integers, a function's number and its arguments; the answer on standard output is one. */
#define _GNU_SOURCE
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "edgellm.h"

enum { RUN, EXP, ROUND_UPWARD, SCORE }; /* as library.py numbers them */

/* The pool of so many threads; NULL where they could not be started. */
static el_pool *pool_of(int threads)
{
    static el_pool *pools[257];
    if (!pools[threads])
        pools[threads] = el_pool_new(threads);
    return pools[threads];
}

/* A plan made of the ops, run once. */
static int64_t run(int isa, const el_op *ops, int64_t count, int threads, const el_step *step, int64_t *op_ns)
{
    el_pool *pool = pool_of(threads);
    el_plan *plan = el_plan_new(isa);
    if (!plan || !pool)
        return -1;
    for (int64_t i = 0; i < count; i++)
        if (el_plan_append(plan, &ops[i]))
            return -1;
    int result = el_plan_run(plan, pool, step, op_ns);
    el_plan_free(plan);
    return result;
}

static void *pointer(int64_t address)
{
    return (void *)(uintptr_t)address;
}

static int64_t answer(const int64_t r[8])
{
    switch (r[0]) {
    case RUN:
        return run((int)r[1], pointer(r[2]), r[3], (int)r[4], pointer(r[5]), pointer(r[6]));
    case EXP:
        return el_exp((int)r[1], pointer(r[2]), pointer(r[3]), r[4]);
    case ROUND_UPWARD: { /* gives what it was before */
        int was_upward = fegetround() == FE_UPWARD;
        fesetround(r[1] ? FE_UPWARD : FE_TONEAREST);
        return was_upward;
    }
    case SCORE:
        return pool_of((int)r[2]) ? el_score((int)r[1], pool_of((int)r[2]), pointer(r[3])) : -1;
    default:
        return -1;
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    void *wanted = pointer(strtoll(argv[2], NULL, 10));
    /* Without MAP_FIXED, which would let it replace what the emulator itself has there. */
    void *arena = mmap(wanted, (size_t)strtoll(argv[3], NULL, 10), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, atoi(argv[1]), 0);
    if (arena != wanted) {
        fprintf(stderr, "the arena could not be mapped at %p\n", wanted);
        return 1;
    }
    int64_t request[8];
    while (fread(request, sizeof request, 1, stdin) == 1) {
        int64_t result = answer(request);
        if (fwrite(&result, sizeof result, 1, stdout) != 1 || fflush(stdout))
            return 1;
    }
    return 0;
}
