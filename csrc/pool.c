/* Threads that spin for a short while, then sleep. Between tokens and at barriers nothing enters the kernel unless a thread
 * was kept waiting for longer than the spin. */
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SPINS_AT_BARRIER 20000  /* pauses: a fraction of a millisecond, longer than any op's imbalance */
#define SPINS_BETWEEN_RUNS 100000 /* a few milliseconds: the sampler and the caller's work between two tokens */

struct el_pool {
    atomic_int threads;          /* changes only where starting them failed half-way */
    atomic_int fork_epoch;       /* after a fork the child has no workers: they are started anew */
    pthread_t *workers;          /* [threads - 1] */
    pthread_mutex_t callers;     /* held during a run */
    pthread_mutex_t lock;        /* for sleeping only */
    pthread_cond_t wake;
    atomic_int sleepers;
    atomic_uint phase;           /* counts barriers, the start and the end of a run among them */
    atomic_int arrived;
    atomic_int stopping;
    el_team_function function;
    void *context;
};

struct worker_start {
    el_pool *pool;
    int thread;
};

static atomic_int fork_epoch;
static pthread_mutex_t restarting = PTHREAD_MUTEX_INITIALIZER; /* held while a forked child starts a pool's workers anew */

static void count_fork(void)
{
    pthread_mutex_init(&restarting, NULL); /* whoever held it is not in the child */
    atomic_fetch_add(&fork_epoch, 1);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, count_fork);
}

static inline void spin_pause(void)
{
#if EL_X86
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns when the phase is no longer `phase`. */
static void wait_for_phase(el_pool *pool, unsigned phase, int spins)
{
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(&pool->phase, memory_order_acquire) != phase)
            return;
        spin_pause();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->phase) == phase)
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

/* The last thread to arrive opens the next phase; the others wait for it. */
static void meet(el_pool *pool, int spins)
{
    unsigned phase = atomic_load_explicit(&pool->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 < pool->threads) {
        wait_for_phase(pool, phase, spins);
        return;
    }
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    atomic_fetch_add(&pool->phase, 1);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
}

static void *work(void *argument)
{
    struct worker_start *start = argument;
    el_pool *pool = start->pool;
    int thread = start->thread;
    free(start);
    for (;;) {
        meet(pool, SPINS_BETWEEN_RUNS);
        if (atomic_load(&pool->stopping))
            return NULL;
        pool->function(pool->context, (el_team){thread, pool->threads}); /* read now: starting the others may have failed since */
        meet(pool, SPINS_AT_BARRIER);
    }
}

static void stop_workers(el_pool *pool, int count)
{
    for (int i = 0; i < count; i++)
        pthread_join(pool->workers[i], NULL);
}

/* Starts the workers with every signal blocked, so that Ctrl-C reaches Python's thread. Gives how many run. */
static int start_workers(el_pool *pool)
{
    sigset_t all, before;
    int count = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; count < pool->threads - 1; count++) {
        struct worker_start *start = malloc(sizeof *start);
        if (!start)
            break;
        *start = (struct worker_start){.pool = pool, .thread = count + 1};
        if (pthread_create(&pool->workers[count], NULL, work, start)) {
            free(start);
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return count;
}

static void reset(el_pool *pool)
{
    pthread_mutex_init(&pool->callers, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    atomic_store(&pool->sleepers, 0);
    atomic_store(&pool->phase, 0);
    atomic_store(&pool->arrived, 0);
    atomic_store(&pool->stopping, 0);
}

/* 0, or -1: not all of them could be started; those that were wait for work, and the next run uses them. */
static int restart_after_fork(el_pool *pool)
{
    int epoch = atomic_load(&fork_epoch), failed = 0;
    if (pool->fork_epoch == epoch)
        return 0;
    pthread_mutex_lock(&restarting);
    if (pool->fork_epoch != epoch) {
        reset(pool);
        int started = start_workers(pool);
        if (started != pool->threads - 1) {
            atomic_store(&pool->threads, started + 1);
            failed = -1;
        }
        atomic_store(&pool->fork_epoch, epoch);
    }
    pthread_mutex_unlock(&restarting);
    return failed;
}

el_pool *el_pool_new(int threads)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    el_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->threads = threads;
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    reset(pool);
    pool->fork_epoch = atomic_load(&fork_epoch);
    int started = pool->workers ? start_workers(pool) : -1;
    if (started == threads - 1)
        return pool;
    if (started > 0) { /* the barrier that the started ones wait at opens with the caller's arrival */
        atomic_store(&pool->threads, started + 1);
        atomic_store(&pool->stopping, 1);
        meet(pool, 0);
        stop_workers(pool, started);
    }
    free(pool->workers);
    free(pool);
    return NULL;
}

void el_pool_free(el_pool *pool)
{
    if (!pool)
        return;
    if (pool->fork_epoch == atomic_load(&fork_epoch)) {
        atomic_store(&pool->stopping, 1);
        meet(pool, 0);
        stop_workers(pool, pool->threads - 1);
    }
    free(pool->workers);
    free(pool);
}

int el_pool_run(el_pool *pool, el_team_function function, void *context)
{
    if (restart_after_fork(pool))
        return -1;
    pthread_mutex_lock(&pool->callers);
    pool->function = function;
    pool->context = context;
    meet(pool, SPINS_AT_BARRIER);
    function(context, (el_team){0, pool->threads});
    meet(pool, SPINS_AT_BARRIER);
    pthread_mutex_unlock(&pool->callers);
    return 0;
}

void el_pool_barrier(el_pool *pool)
{
    meet(pool, SPINS_AT_BARRIER);
}
