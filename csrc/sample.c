/* Logits -> the next token. IEEE double additions, multiplications, divisions and comparisons in one fixed order, so that the same
 * seed draws the same text everywhere; tests/unit/ops/drawing.py says it in NumPy. */
#include "edgellm.h"

#define LANES 16       /* maxima that do not wait for each other */
#define FEWEST 256     /* candidates that the nucleus is looked for among first, before all */
#define HEAP_MOST 1024 /* about where sorting all takes as long */
#define DIGIT_BITS 11
#define DIGITS 6

/* exp(r) on |r| <= ln(2)/2 as FreeBSD's e_exp.c computes it: r * (exp(r) + 1) / (exp(r) - 1) = 2 + P1 r^2 + ... + P5 r^10 */
#define P1 1.66666666666666019037e-01
#define P2 -2.77777777770155933842e-03
#define P3 6.61375632143793436117e-05
#define P4 -1.65339022054652515390e-06
#define P5 4.13813679705723846039e-08
#define LN2_HIGH 6.93147180369123816490e-01 /* its last 20 bits are zero, so that n * LN2_HIGH is exact */
#define LN2_LOW 1.90821492927058770002e-10
#define INVERSE_LN2 1.44269504088896338700e+00
#define EXP_LEAST -708.0
#define TO_INTEGER 0x1.8p52 /* added, leaves no room for a fraction: the low bits are the nearest integer */

/* e^x for x <= 0, within 1 ulp; 0 below EXP_LEAST, where results would be subnormal. Without branches, to be vectorized (weigh). */
INLINE double exp_nonpositive(double x)
{
    double shifted = x * INVERSE_LN2 + TO_INTEGER, n = shifted - TO_INTEGER;
    double high = x - n * LN2_HIGH, low = n * LN2_LOW, r = high - low, t = r * r;
    double c = r - t * (P1 + t * (P2 + t * (P3 + t * (P4 + t * P5))));
    double fraction = 1.0 - ((low - (r * c) / (2.0 - c)) - high), power, result;
    uint64_t bits;
    memcpy(&bits, &shifted, 8);
    bits = (bits + 1023) << 52; /* 2^n: of n's own bits only the exponent's are left */
    memcpy(&power, &bits, 8);
    result = fraction * power;
    memcpy(&bits, &result, 8);
    bits &= -(uint64_t)(x >= EXP_LEAST);
    memcpy(&result, &bits, 8);
    return result;
}

/* weights[0 .. n): scores before, and how probable they are beside the best one after. */
#define DEFINE_WEIGH(name)                                                          \
    static void name(double *weights, int32_t n, double best, double temperature)   \
    {                                                                               \
        for (int32_t i = 0; i < n; i++)                                             \
            weights[i] = exp_nonpositive((weights[i] - best) / temperature);        \
    }

DEFINE_WEIGH(weigh__any)
#if EL_X86
EL_TARGET_BEGIN("avx2")
DEFINE_WEIGH(weigh__avx2)
EL_TARGET_END
EL_TARGET_BEGIN("avx512f,avx512dq")
DEFINE_WEIGH(weigh__avx512)
EL_TARGET_END
#endif

static void weigh(int isa, double *weights, int32_t n, double best, double temperature)
{
    switch (isa) {
#if EL_X86
    case EL_ISA_AVX2: weigh__avx2(weights, n, best, temperature); break;
    case EL_ISA_AVX512: case EL_ISA_AVX512VNNI: weigh__avx512(weights, n, best, temperature); break;
#endif
    default: weigh__any(weights, n, best, temperature);
    }
}

/* Sums up to each weight, in place; gives the sum of all. */
static double accumulate(double *weights, int32_t n)
{
    for (int32_t i = 1; i < n; i++)
        weights[i] += weights[i - 1];
    return weights[n - 1];
}

/* The first of n >= 1 sums in order that is above `point`, or, `or_equal`, not below it; n where there is none. */
static int32_t first_above(const double *sums, int32_t n, double point, int or_equal)
{
    int32_t begin = 0, end = n;
    while (begin < end) {
        int32_t middle = begin + (end - begin) / 2;
        if (sums[middle] > point || (or_equal && sums[middle] == point))
            end = middle;
        else
            begin = middle + 1;
    }
    return begin;
}

static int ranks_below(el_ranked a, el_ranked b)
{
    return a.value < b.value || (a.value == b.value && a.at > b.at);
}

/* A heap whose root ranks lowest, all but heap[i] being in order. */
static void sift_down(el_ranked *heap, int32_t n, int32_t i)
{
    el_ranked moved = heap[i];
    for (int32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && ranks_below(heap[child + 1], heap[child]))
            child++;
        if (!ranks_below(heap[child], moved))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* What select_largest gives, for small k: a heap of those found so far. */
static void heap_largest(const double *values, int32_t n, int32_t k, el_ranked *largest)
{
    for (int32_t i = 0; i < k; i++)
        largest[i] = (el_ranked){values[i], i};
    for (int32_t i = k / 2; i-- > 0;)
        sift_down(largest, k, i);
    for (int32_t i = k; i < n; i++)
        if (values[i] > largest[0].value) {
            largest[0] = (el_ranked){values[i], i};
            sift_down(largest, k, 0);
        }
    for (int32_t i = k; i-- > 1;) {
        el_ranked lowest = largest[0];
        largest[0] = largest[i];
        largest[i] = lowest;
        sift_down(largest, i, 0);
    }
}

/* Digit d of what orders values as integers, the largest first. */
static inline uint32_t digit(double value, int d)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    bits = bits >> 63 ? bits : ~bits & INT64_MAX;
    return (uint32_t)(bits >> d * DIGIT_BITS & ((1u << DIGIT_BITS) - 1));
}

/* All of n values, the largest first, among equals the lowest position first: a radix sort, from the last digit on. */
static void sort_all(const double *values, int32_t n, el_ranked *from, el_ranked *to)
{
    uint32_t place[DIGITS][1 << DIGIT_BITS] = {{0}}; /* of the next value with that digit */
    for (int32_t i = 0; i < n; i++) {
        from[i] = (el_ranked){values[i] + 0.0, i}; /* -0 is 0 */
        for (int d = 0; d < DIGITS; d++)
            place[d][digit(from[i].value, d)]++;
    }
    for (int d = 0; d < DIGITS; d++) { /* an even number, so that all end where they began */
        uint32_t before = 0;
        for (int v = 0; v < 1 << DIGIT_BITS; v++) {
            uint32_t count = place[d][v];
            place[d][v] = before;
            before += count;
        }
        for (int32_t i = 0; i < n; i++)
            to[place[d][digit(from[i].value, d)]++] = from[i];
        el_ranked *sorted = to;
        to = from;
        from = sorted;
    }
}

/* Into `ranked` the k largest of n >= k values, the largest first, among equals the lowest position first. */
static void select_largest(const el_sampler *s, const double *values, int32_t n, int32_t k)
{
    if (k <= HEAP_MOST)
        heap_largest(values, n, k, s->ranked);
    else
        sort_all(values, n, s->ranked, s->room);
}

/* Fills weights with the logits, with the penalty for those of the history. -1 where its ids are outside the vocabulary. */
static int score(const el_sampler *s, const float *logits, const int64_t *history, int32_t n_history)
{
    double penalty = s->repetition_penalty;
    for (int32_t i = 0; i < s->vocabulary; i++)
        s->weights[i] = (double)logits[i];
    for (int32_t i = 0; i < n_history; i++) {
        if (history[i] < 0 || history[i] >= s->vocabulary)
            return -1;
        double seen = (double)logits[history[i]]; /* not a score: an id that comes again is not penalized again */
        s->weights[history[i]] = seen > 0 ? seen / penalty : seen * penalty;
    }
    return 0;
}

/* The position of the first NaN; without one, of the first of the largest. */
static int32_t find_best(const double *scores, int32_t n)
{
    double lanes[LANES], best = -INFINITY;
    uint64_t is_nan[LANES] = {0};
    int32_t i = 0;
    for (int l = 0; l < LANES; l++)
        lanes[l] = best;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            lanes[l] = scores[i + l] > lanes[l] ? scores[i + l] : lanes[l];
            is_nan[l] |= scores[i + l] != scores[i + l];
        }
    for (int l = 0; l < LANES; l++) {
        best = lanes[l] > best ? lanes[l] : best;
        is_nan[0] |= is_nan[l];
    }
    for (; i < n; i++) {
        best = scores[i] > best ? scores[i] : best;
        is_nan[0] |= isnan(scores[i]);
    }
    i = 0;
    while (i < n - 1 && (is_nan[0] ? !isnan(scores[i]) : scores[i] != best))
        i++;
    return i;
}

/* Leaves the k most probable candidates. */
static int32_t keep_top_k(const el_sampler *s, int32_t k)
{
    select_largest(s, s->weights, s->vocabulary, k);
    for (int32_t i = 0; i < k; i++) {
        s->ids[i] = s->ranked[i].at;
        s->weights[i] = s->ranked[i].value;
    }
    return k;
}

/* Leaves the fewest candidates of n that have top_p of the weight of all, the largest first. */
static int32_t keep_nucleus(const el_sampler *s, int32_t n)
{
    memcpy(s->sums, s->weights, (size_t)n * sizeof *s->sums);
    double wanted = s->top_p * accumulate(s->sums, n);
    int32_t k = n < FEWEST ? n : FEWEST, kept;
    for (;; k = n) {
        select_largest(s, s->weights, n, k);
        for (int32_t i = 0; i < k; i++)
            s->sums[i] = s->ranked[i].value;
        if (accumulate(s->sums, k) >= wanted || k == n)
            break;
    }
    kept = first_above(s->sums, k, wanted, 1) + 1;
    kept = kept < k ? kept : k;
    for (int32_t i = 0; i < kept; i++) {
        s->weights[i] = s->ranked[i].value;
        s->ranked[i].at = s->ids[s->ranked[i].at];
    }
    for (int32_t i = 0; i < kept; i++)
        s->ids[i] = s->ranked[i].at;
    return kept;
}

/* Leaves candidates of at least that weight, the largest being 1. */
static int32_t keep_likely(const el_sampler *s, int32_t n)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++)
        if (s->weights[i] >= s->min_p) {
            s->ids[kept] = s->ids[i];
            s->weights[kept++] = s->weights[i];
        }
    return kept;
}

/* Fills ids and weights with the candidates that the filters leave, and gives how many these are. */
static int32_t find_candidates(const el_sampler *s, double best)
{
    int32_t n = s->vocabulary;
    if (0 < s->top_k && s->top_k < n)
        n = keep_top_k(s, s->top_k);
    else
        for (int32_t i = 0; i < n; i++)
            s->ids[i] = i;
    weigh(s->isa, s->weights, n, best, s->temperature);
    if (s->top_p < 1)
        n = keep_nucleus(s, n);
    if (s->min_p > 0)
        n = keep_likely(s, n);
    return n;
}

int32_t el_sample(el_sampler *s, const float *logits, const int64_t *history, int32_t n_history, double uniform)
{
    if (score(s, logits, history, n_history))
        return -1 - s->vocabulary;
    int32_t best = find_best(s->weights, s->vocabulary);
    double largest = s->weights[best];
    if (!isfinite(largest))
        return -1 - best;
    if (s->temperature == 0)
        return best;
    s->candidates = find_candidates(s, largest);
    double total = accumulate(s->weights, s->candidates);
    return s->ids[first_above(s->weights, s->candidates, uniform * total, 0)];
}
