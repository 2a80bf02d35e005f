/* A pool of threads that run one function together, and meet at barriers. */
#ifndef EDGELLM_POOL_H
#define EDGELLM_POOL_H

#include <time.h>

#include "edgellm.h"

typedef void (*el_team_function)(void *context, el_team team);

/* Calls function(context, team) on the caller's thread and on workers of the pool, and returns 0 when all have returned. The team is
 * the whole pool, or less of it where it may shrink. One call at a time: a second caller waits for the first. -1: this is a
 * forked child, and its threads could not be started. */
int el_pool_run(el_pool *pool, el_team_function function, void *context);

/* Inside such a function: returns when every thread of the team has called it. */
void el_pool_barrier(el_pool *pool);

static inline int64_t el_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif
