/* A plan: ops recorded once, replayed for every step. */
#include "pool.h"

#include <stdlib.h>

/* The thread's rounding mode and treatment of subnormals. */
#if EL_X86
#include <xmmintrin.h>

#define IEEE_DEFAULT 0x1f80 /* round to nearest, subnormals kept, exceptions masked */

static inline uint64_t float_control(void)
{
    return _mm_getcsr();
}

static inline void set_float_control(uint64_t control)
{
    _mm_setcsr((unsigned)control);
}
#elif EL_ARM64
#define IEEE_DEFAULT 0 /* and float16 as IEEE has it */

static inline uint64_t float_control(void)
{
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
}

static inline void set_float_control(uint64_t control)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(control) : "memory");
}
#endif

struct el_plan {
    const el_named_kernel *kernels; /* [EL_OP_COUNT] */
    el_op *ops;
    int count, capacity;
};

el_plan *el_plan_new(int isa)
{
    if (!el_isa_supported(isa))
        return NULL;
    el_plan *plan = calloc(1, sizeof *plan);
    if (plan)
        plan->kernels = el_kernels[isa];
    return plan;
}

void el_plan_free(el_plan *plan)
{
    if (plan)
        free(plan->ops);
    free(plan);
}

int el_plan_append(el_plan *plan, const el_op *op)
{
    if (!plan->kernels[op->kind].run)
        return -2;
    if (plan->count == plan->capacity) {
        int capacity = plan->capacity ? 2 * plan->capacity : 64;
        el_op *ops = realloc(plan->ops, (size_t)capacity * sizeof *ops);
        if (!ops)
            return -1;
        plan->ops = ops;
        plan->capacity = capacity;
    }
    plan->ops[plan->count++] = *op;
    return 0;
}

int el_plan_count(const el_plan *plan)
{
    return plan->count;
}

struct replay {
    const el_plan *plan;
    el_pool *pool;
    const el_step *step;
    int64_t *op_ns;
};

static void replay_timed(const struct replay *r, el_team team)
{
    for (int i = 0; i < r->plan->count; i++) {
        const el_op *op = &r->plan->ops[i];
        el_pool_barrier(r->pool);
        int64_t start = el_now_ns();
        r->plan->kernels[op->kind].run(&op->args, r->step, team);
        el_pool_barrier(r->pool);
        if (team.thread == 0)
            r->op_ns[i] = el_now_ns() - start;
    }
}

static void replay_ops(void *context, el_team team)
{
    const struct replay *r = context;
#ifdef IEEE_DEFAULT
    uint64_t control = float_control();
    set_float_control(IEEE_DEFAULT); /* whatever the process has set, the bits are the same */
#endif
    if (r->op_ns)
        replay_timed(r, team);
    else
        for (const el_op *op = r->plan->ops, *end = op + r->plan->count; op < end; op++) {
            if (op->barrier)
                el_pool_barrier(r->pool);
            r->plan->kernels[op->kind].run(&op->args, r->step, team);
        }
#ifdef IEEE_DEFAULT
    set_float_control(control);
#endif
}

int el_plan_run(const el_plan *plan, el_pool *pool, const el_step *step, int64_t *op_ns)
{
    struct replay r = {plan, pool, step, op_ns};
    return el_pool_run(pool, replay_ops, &r);
}
