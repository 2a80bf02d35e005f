/* -log p of a token by its row of logits x, [V]: m - x[t] + log(sum_v exp(x[v] - m)), m the largest. A block's sum is 16 lanes and the
 * fixed tree; blocks are added in order, in double, so that float32 rounds 36 times on the way, however large V is. */
enum { SCORE_BLOCK = 512 };

/* NaN where a logit is NaN or infinite. */
static inline float largest_logit(const float *x, int64_t n)
{
    v16 best = v_set1(x[0]), differences = v_set1(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        v16 v = v_load_n(x + i, n - i);
        best = v_max(v_keep_n(v, n - i, best), best);
        differences = v_add(differences, v_sub(v, v));
    }
    return v_hmax(best) + v_hsum(differences);
}

static inline double sum_of_exps(const float *x, int64_t n, float largest)
{
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += SCORE_BLOCK) {
        int64_t end = begin + SCORE_BLOCK < n ? begin + SCORE_BLOCK : n;
        v16 sums = v_set1(0.0f), zero = sums;
        for (int64_t i = begin; i < end; i += 16)
            sums = v_add(sums, v_keep_n(v_exp(v_sub(v_load_n(x + i, end - i), v_set1(largest))), end - i, zero));
        total += (double)v_hsum(sums);
    }
    return total;
}

/* greedy: no token is more likely, and none before it is as likely. */
void EL_KERNEL(el_score)(const float *x, int64_t n, int64_t target, double *nll, uint8_t *greedy)
{
    float largest = largest_logit(x, n);
    *nll = (double)largest - (double)x[target] + el_log(sum_of_exps(x, n, largest));
    *greedy = x[target] == largest && (target == 0 || largest_logit(x, target) < largest);
}
