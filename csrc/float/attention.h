/* Causal attention of up to four query heads that share a key/value head, for one new token.
 * Scores: a lane is a key. Values: a lane is a head element, keys in order. E is a multiple of 16. */
/* scores[r, t] = scale * q[r] . key[t] for t < keys; gives each head's largest score. */
static inline void score_keys(const el_attention *a, const float *q, int64_t kv_head, int64_t keys, int heads, float *scores,
                              float largest[EL_HEADS_AT_ONCE])
{
    const el_cache *cache = &a->cache;
    v16 top[EL_HEADS_AT_ONCE], lowest = v_set1(-INFINITY), scale = v_set1(a->scale);
    for (int r = 0; r < heads; r++)
        top[r] = lowest;
    for (int64_t t = 0; t < keys; t += 16) {
        int64_t tile = (kv_head * cache->context + t) * cache->head_dim;
        v16 sum[EL_HEADS_AT_ONCE];
        for (int r = 0; r < heads; r++)
            sum[r] = v_set1(0.0f);
        for (int64_t e = 0; e < cache->head_dim; e++) {
            v16 key = cache_load(cache->keys, tile + e * 16, cache->is_f16);
            for (int r = 0; r < heads; r++)
                sum[r] = v_fma(v_set1(q[r * cache->head_dim + e]), key, sum[r]);
        }
        for (int r = 0; r < heads; r++) {
            v16 score = v_keep_n(v_mul(sum[r], scale), keys - t, lowest);
            top[r] = v_max(score, top[r]);
            v_store(scores + r * cache->context + t, score);
        }
    }
    for (int r = 0; r < heads; r++)
        largest[r] = v_hmax(top[r]);
}

/* scores[t] = exp(scores[t] - largest), 0 from the last key on; gives their sum. */
static inline float exponentiate(float *scores, int64_t keys, float largest)
{
    v16 sum = v_set1(0.0f), zero = v_set1(0.0f), shift = v_set1(largest);
    for (int64_t t = 0; t < keys; t += 16) {
        v16 p = v_keep_n(v_exp(v_sub(v_load(scores + t), shift)), keys - t, zero);
        v_store(scores + t, p);
        sum = v_add(sum, p);
    }
    return v_hsum(sum);
}

/* out[r, e] = inverse[r] * sum_t p[r, t] * value[t, e], 32 elements at a time where there are as many. */
static inline void mix_values(const el_attention *a, const float *p, int64_t kv_head, int64_t keys, int heads, const float *inverse,
                              float *out)
{
    const el_cache *cache = &a->cache;
    int64_t dim = cache->head_dim, base = kv_head * cache->context * dim;
    for (int64_t e = 0; e < dim; e += 32) {
        int both = e + 16 < dim;
        v16 low[EL_HEADS_AT_ONCE], high[EL_HEADS_AT_ONCE];
        for (int r = 0; r < heads; r++)
            low[r] = high[r] = v_set1(0.0f);
        for (int64_t t = 0; t < keys; t++) {
            v16 value_low = cache_load(cache->values, base + t * dim + e, cache->is_f16);
            v16 value_high = both ? cache_load(cache->values, base + t * dim + e + 16, cache->is_f16) : value_low;
            for (int r = 0; r < heads; r++) {
                v16 weight = v_set1(p[r * cache->context + t]);
                low[r] = v_fma(weight, value_low, low[r]);
                high[r] = v_fma(weight, value_high, high[r]);
            }
        }
        for (int r = 0; r < heads; r++) {
            v_store(out + r * dim + e, v_mul(low[r], v_set1(inverse[r])));
            if (both)
                v_store(out + r * dim + e + 16, v_mul(high[r], v_set1(inverse[r])));
        }
    }
}

static inline __attribute__((always_inline)) void attend(const el_attention *a, int64_t token, int64_t head, int64_t keys, int heads,
                                                         float *scores)
{
    int64_t dim = a->cache.head_dim, at = (token * a->heads + head) * dim;
    int64_t kv_head = head / (a->heads / a->cache.heads);
    float value[EL_HEADS_AT_ONCE];
    score_keys(a, a->q + at, kv_head, keys, heads, scores, value);
    for (int r = 0; r < heads; r++)
        value[r] = 1.0f / exponentiate(scores + r * a->cache.context, keys, value[r]);
    mix_values(a, scores, kv_head, keys, heads, value, a->out + at);
}

void EL_KERNEL(el_attention)(const el_args *args, const el_step *step, el_team team)
{
    const el_attention *a = &args->attention;
    int64_t shared = a->heads / a->cache.heads; /* query heads per key/value head */
    float *scores = a->scratch + team.thread * EL_HEADS_AT_ONCE * (int64_t)a->cache.context;
    el_range units = el_share((int64_t)step->n_tokens * a->heads, team);
    for (int64_t u = units.begin; u < units.end;) {
        int64_t token = u / a->heads, head = u % a->heads, keys = step->position + token + 1;
        int64_t run = shared - head % shared; /* heads from here on that share their keys */
        if (run > units.end - u)
            run = units.end - u;
        switch (run) { /* constants, so that the compiler keeps each head's sums in registers */
        case 1: attend(a, token, head, keys, 1, scores); u += 1; break;
        case 2: attend(a, token, head, keys, 2, scores); u += 2; break;
        case 3: attend(a, token, head, keys, 3, scores); u += 3; break;
        default: attend(a, token, head, keys, 4, scores); u += 4; break;
        }
    }
}
