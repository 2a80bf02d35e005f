/* Whether what an op wrote is finite. Where it is not, *first becomes the least of op << 48 | l << 32 | element, over all threads. */

/* n if all are finite: then x - x is 0 everywhere, and NaN where they are not. */
static inline int64_t first_not_finite(const float *x, int64_t n)
{
    v16 differences = v_set1(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        v16 v = v_load_n(x + i, n - i);
        differences = v_add(differences, v_sub(v, v));
    }
    if (v_hsum(differences) == 0.0f)
        return n;
    int64_t i = 0;
    while (isfinite(x[i]))
        i++;
    return i;
}

static inline void note_first(int64_t *first, int64_t op, int64_t l, int64_t element)
{
    int64_t found = op << 48 | l << 32 | element, least = __atomic_load_n(first, __ATOMIC_RELAXED);
    while (found < least && !__atomic_compare_exchange_n(first, &least, found, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void EL_KERNEL(el_check_finite)(const el_args *args, const el_step *step, el_team team)
{
    const el_check_finite *a = &args->check_finite;
    int64_t rows = a->outputs_only ? step->n_outputs : step->n_tokens;
    el_range share = el_share(rows, team);
    for (int64_t row = share.begin; row < share.end; row++) {
        int64_t element = first_not_finite(a->x + row * a->cols, a->cols);
        if (element < a->cols)
            note_first(a->first, a->op, step->n_tokens - rows + row, element);
    }
}

/* A head's key and value at a position, side by side. */
static inline void load_key_and_value(const el_cache *cache, int64_t head, int64_t position, float *out)
{
    int64_t dim = cache->head_dim, tile = head * cache->context + position / EL_KEY_TILE * EL_KEY_TILE;
    int64_t key = tile * dim + position % EL_KEY_TILE, value = (head * cache->context + position) * dim;
    for (int64_t e = 0; e < dim; e++, key += EL_KEY_TILE)
        out[e] = cache->is_f16 ? el_f32_from_f16(((const uint16_t *)cache->keys)[key]) : ((const float *)cache->keys)[key];
    for (int64_t e = 0; e < dim; e += 16)
        v_store(out + dim + e, cache_load(cache->values, value + e, cache->is_f16));
}

void EL_KERNEL(el_check_cache)(const el_args *args, const el_step *step, el_team team)
{
    const el_check_cache *a = &args->check_cache;
    int64_t heads = a->cache.heads, both = 2 * a->cache.head_dim;
    el_range units = el_share((int64_t)step->n_tokens * heads, team);
    for (int64_t u = units.begin; u < units.end; u++) {
        float row[2 * EL_MAX_HEAD_DIM];
        load_key_and_value(&a->cache, u % heads, step->position + u / heads, row);
        int64_t element = first_not_finite(row, both);
        if (element < both)
            note_first(a->first, a->op, u / heads, u % heads * both + element);
    }
}
