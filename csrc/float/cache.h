/* The key/value cache holds float16 or float32; the layouts are in edgellm.cdef.h. */
static inline v16 cache_load(const void *base, int64_t at, int is_f16)
{
    return is_f16 ? v_load_f16((const uint16_t *)base + at) : v_load((const float *)base + at);
}

/* Asks for the cache lines of `count` times 16 elements, which may lie beyond the end. */
INLINE void cache_fetch(const void *base, int64_t at, int count, int is_f16)
{
    int size = is_f16 ? 2 : 4;
    el_prefetch(base, at * size, count * 16 * size);
}

static inline void store_key(const el_cache *cache, int64_t head, int64_t position, const float *key)
{
    int64_t tile = head * cache->context + position / EL_KEY_TILE * EL_KEY_TILE;
    int64_t at = tile * cache->head_dim + position % EL_KEY_TILE;
    for (int64_t e = 0; e < cache->head_dim; e++) {
        if (cache->is_f16)
            ((uint16_t *)cache->keys)[at + e * EL_KEY_TILE] = el_f16_from_f32(key[e]);
        else
            ((float *)cache->keys)[at + e * EL_KEY_TILE] = key[e];
    }
}

static inline void store_value(const el_cache *cache, int64_t head, int64_t position, const float *value)
{
    int64_t at = (head * cache->context + position) * cache->head_dim;
    for (int64_t e = 0; e < cache->head_dim; e += 16) {
        if (cache->is_f16)
            v_store_f16((uint16_t *)cache->values + at + e, v_load(value + e));
        else
            v_store((float *)cache->values + at + e, v_load(value + e));
    }
}

void EL_KERNEL(el_cache_append)(const el_args *args, const el_step *step, el_team team)
{
    const el_cache_append *a = &args->cache_append;
    int64_t dim = a->cache.head_dim, half = dim / 2;
    el_range units = el_share((int64_t)step->n_tokens * a->cache.heads, team);
    for (int64_t u = units.begin; u < units.end; u++) {
        int64_t head = u % a->cache.heads, position = step->position + u / a->cache.heads;
        float key[EL_MAX_HEAD_DIM];
        rotate(a->k + u * dim, key, a->cos + position * half, a->sin + position * half, half);
        store_key(&a->cache, head, position, key);
        store_value(&a->cache, head, position, a->v + u * dim);
    }
}
