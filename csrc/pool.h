/* A pool of threads that run one function together, and meet at barriers. */
#ifndef EDGELLM_POOL_H
#define EDGELLM_POOL_H

#include "edgellm.h"

typedef void (*el_team_function)(void *context, el_team team);

/* Calls function(context, team) on every thread of the pool, the caller's included, and returns 0 when all have. One call
 * at a time: a second caller waits for the first. -1: this is a forked child, and its threads could not be started. */
int el_pool_run(el_pool *pool, el_team_function function, void *context);

/* Inside such a function: returns when every thread of the pool has called it. */
void el_pool_barrier(el_pool *pool);

#endif
