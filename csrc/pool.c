/* Threads that run one function together. One that waits spins for some microseconds, then offers its processor to others, then
 * sleeps: on cores of its own nothing enters the kernel, on shared ones nobody spins while the awaited thread needs the core.
 *
 * A pool may shrink. Where others keep its threads from running, the ones that run wait for them at every barrier, which is slower
 * than doing without; so the next runs have a smaller team, until a larger one is tried again. What a run computes does not
 * depend on how many threads it has. */
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define SPINS 200                     /* pauses, 5 to 10 microseconds: longer than the imbalance of most ops */
#define YIELD_AT_BARRIER_NS 1000000   /* then sleep */
#define YIELD_BETWEEN_RUNS_NS 3000000 /* the sampler and the caller's work between two tokens take less */
#define MOST_PATIENCE 4               /* runs in which threads lack processors, before the team shrinks; a larger one on trial has 1 */
#define SHORTEST_REST 8               /* runs before a larger team is tried; doubled whenever that finds no room */
#define LONGEST_REST 256
#define STACK_BYTES (1 << 20)         /* far more than kernels take, and far less than what would be locked in memory by default */

typedef _Atomic uint64_t counter;

struct el_pool {
    int threads;                 /* changes only where starting them failed half-way */
    int may_shrink;
    atomic_int fork_epoch;       /* after a fork the child has no workers: they are started anew */
    pthread_t *workers;          /* [threads - 1] */
    pthread_mutex_t callers;     /* held during a run */
    pthread_mutex_t lock;        /* for sleeping only */
    pthread_cond_t wake;         /* of those that wait for a run or at a barrier */
    pthread_cond_t unpark;       /* of those that the team does without */
    atomic_int sleepers;         /* at `wake` */
    counter start;               /* the number of the run << 16, and its team */
    counter phase;               /* counts barriers, the end of a run among them */
    atomic_int arrived;
    counter waited_ns, slept_ns; /* by all threads at this run's barriers: after spinning, and how much of that asleep */
    counter missed_ns;           /* of this run, if it is watched: what its threads were off the processor, asleep or not */
    int watched;
    int team;                    /* threads of this run */
    int patience;
    int rest, next_rest;         /* runs until a larger team is tried, and after the next time that the team shrinks */
    el_team_function function;   /* NULL: end */
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
    __asm__ volatile("isb"); /* takes time, which "yield" does not */
#endif
}

static inline int holds(counter *word, uint64_t value)
{
    return atomic_load_explicit(word, memory_order_acquire) == value;
}

static void add(counter *sum, int64_t ns)
{
    atomic_fetch_add_explicit(sum, (uint64_t)ns, memory_order_relaxed);
}

static int64_t take(counter *sum)
{
    return (int64_t)atomic_exchange_explicit(sum, 0, memory_order_relaxed);
}

static void sleep_while(el_pool *pool, counter *word, uint64_t value)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(word) == value)
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

/* Returns when the word no longer has that value. */
static void wait_while(el_pool *pool, counter *word, uint64_t value, int64_t yield_ns)
{
    for (int i = 0; i < SPINS; i++) {
        if (!holds(word, value))
            return;
        spin_pause();
    }
    int64_t begin = el_now_ns(), asleep = 0;
    while (holds(word, value) && el_now_ns() - begin < yield_ns)
        sched_yield();
    if (holds(word, value)) {
        asleep = el_now_ns();
        sleep_while(pool, word, value);
    }
    if (word == &pool->phase) {
        int64_t end = el_now_ns();
        add(&pool->waited_ns, end - begin);
        add(&pool->slept_ns, asleep ? end - asleep : 0);
    }
}

/* Those who wait for a word that has just been changed. */
static void wake_sleepers(el_pool *pool)
{
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* The last thread of the team to arrive opens the next phase and gets 1. */
static int arrive(el_pool *pool)
{
    int team = pool->team; /* read first: once all have arrived, the next run may have another */
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 < team)
        return 0;
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    atomic_fetch_add(&pool->phase, 1);
    wake_sleepers(pool);
    return 1;
}

void el_pool_barrier(el_pool *pool)
{
    uint64_t phase = atomic_load_explicit(&pool->phase, memory_order_relaxed);
    if (!arrive(pool))
        wait_while(pool, &pool->phase, phase, YIELD_AT_BARRIER_NS);
}

static int team_of(uint64_t start)
{
    return (int)(start & 0xffff);
}

/* Opens a run: the threads below `team` join it. */
static void start_run(el_pool *pool, int team, el_team_function function, void *context)
{
    uint64_t start = atomic_load_explicit(&pool->start, memory_order_relaxed);
    pool->team = team;
    pool->function = function;
    pool->context = context;
    atomic_store(&pool->start, ((start >> 16) + 1) << 16 | (uint64_t)team);
    wake_sleepers(pool);
    if (team > team_of(start)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->unpark);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Sleeps until a run's team includes the thread. */
static void park(el_pool *pool, int thread)
{
    pthread_mutex_lock(&pool->lock);
    while (team_of(atomic_load(&pool->start)) <= thread)
        pthread_cond_wait(&pool->unpark, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

/* How long the calling thread has been off its processor, from some moment on. */
static int64_t off_processor_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return el_now_ns() - ((int64_t)t.tv_sec * 1000000000 + t.tv_nsec);
}

static void *work(void *argument)
{
    struct worker_start *begin = argument;
    el_pool *pool = begin->pool;
    int thread = begin->thread;
    uint64_t seen = 0;
    free(begin);
    for (;;) {
        wait_while(pool, &pool->start, seen, YIELD_BETWEEN_RUNS_NS);
        seen = atomic_load_explicit(&pool->start, memory_order_acquire);
        if (team_of(seen) <= thread) {
            park(pool, thread);
            continue;
        }
        if (!pool->function)
            return NULL;
        int64_t off_before = pool->watched ? off_processor_ns() : 0;
        pool->function(pool->context, (el_team){thread, pool->team});
        if (pool->watched)
            add(&pool->missed_ns, off_processor_ns() - off_before);
        arrive(pool);
    }
}

/* Ends and joins that many workers, all that there are. */
static void stop_workers(el_pool *pool, int count)
{
    start_run(pool, count + 1, NULL, NULL);
    for (int i = 0; i < count; i++)
        pthread_join(pool->workers[i], NULL);
}

/* Starts the workers with every signal blocked, so that Ctrl-C reaches Python's thread. Gives how many run. */
static int start_workers(el_pool *pool)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    int count = 0;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; count < pool->threads - 1; count++) {
        struct worker_start *begin = malloc(sizeof *begin);
        if (!begin)
            break;
        *begin = (struct worker_start){.pool = pool, .thread = count + 1};
        if (pthread_create(&pool->workers[count], &attributes, work, begin)) {
            free(begin);
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return count;
}

static void reset(el_pool *pool)
{
    pthread_mutex_init(&pool->callers, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->unpark, NULL);
    atomic_store(&pool->sleepers, 0);
    atomic_store(&pool->start, 0);
    atomic_store(&pool->phase, 0);
    atomic_store(&pool->arrived, 0);
    take(&pool->waited_ns);
    take(&pool->slept_ns);
    take(&pool->missed_ns);
    pool->watched = pool->rest = 0;
    pool->patience = MOST_PATIENCE;
    pool->next_rest = SHORTEST_REST;
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
        if (started != pool->threads - 1)
            failed = -1;
        pool->threads = pool->team = started + 1;
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
    pool->threads = pool->team = threads;
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    reset(pool);
    pool->fork_epoch = atomic_load(&fork_epoch);
    int started = pool->workers ? start_workers(pool) : 0;
    if (pool->workers && started == threads - 1)
        return pool;
    stop_workers(pool, started);
    free(pool->workers);
    free(pool);
    return NULL;
}

void el_pool_free(el_pool *pool)
{
    if (!pool)
        return;
    if (pool->fork_epoch == atomic_load(&fork_epoch))
        stop_workers(pool, pool->threads - 1);
    free(pool->workers);
    free(pool);
}

static void shrink(el_pool *pool, int too_many)
{
    pool->team = too_many < pool->team ? pool->team - too_many : 1;
    pool->patience = MOST_PATIENCE;
    pool->rest = pool->next_rest;
    pool->next_rest = pool->next_rest < LONGEST_REST ? 2 * pool->next_rest : LONGEST_REST;
}

static void grow(el_pool *pool)
{
    pool->team++;
    pool->patience = 1;
    pool->rest = SHORTEST_REST;
}

/* Sets the team of the next run. Threads that wait much for each other are watched for a run, and where it is again and again for
 * want of processors rather than of work, the team shrinks. */
static void adapt(el_pool *pool, int64_t run_ns)
{
    int64_t waited = take(&pool->waited_ns), missed = take(&pool->missed_ns) - take(&pool->slept_ns);
    if (run_ns <= 0) /* shorter than the clock can tell */
        return;
    int too_many = pool->watched ? (int)((missed + run_ns * 3 / 4) / run_ns) : 0;
    pool->watched = waited > run_ns / 4;
    if (too_many > 0) {
        if (--pool->patience == 0)
            shrink(pool, too_many);
        return;
    }
    if (pool->patience < MOST_PATIENCE)
        pool->patience++;
    if (pool->rest && --pool->rest == 0) {
        if (pool->team < pool->threads)
            grow(pool);
        else
            pool->next_rest = SHORTEST_REST;
    }
}

void el_pool_let_shrink(el_pool *pool)
{
    pool->may_shrink = 1;
}

int el_pool_team(const el_pool *pool)
{
    return pool->team;
}

int el_pool_run(el_pool *pool, el_team_function function, void *context)
{
    if (restart_after_fork(pool))
        return -1;
    pthread_mutex_lock(&pool->callers);
    int64_t begin = el_now_ns(), off_before = pool->watched ? off_processor_ns() : 0;
    start_run(pool, pool->team, function, context);
    function(context, (el_team){0, pool->team});
    el_pool_barrier(pool);
    if (pool->watched)
        add(&pool->missed_ns, off_processor_ns() - off_before);
    if (pool->may_shrink)
        adapt(pool, el_now_ns() - begin);
    pthread_mutex_unlock(&pool->callers);
    return 0;
}

static void note_thread_id(void *ids, el_team team)
{
#if defined(__linux__)
    ((int32_t *)ids)[team.thread] = (int32_t)syscall(SYS_gettid);
#else
    (void)ids, (void)team;
#endif
}

int el_pool_thread_ids(el_pool *pool, int32_t *ids)
{
    return el_pool_run(pool, note_thread_id, ids);
}
