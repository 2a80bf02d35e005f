/* Causal attention, to all keys or within a window, in blocks of keys, as in FlashAttention (Dao et al., 2022) and Flash-Decoding (Dao et
 * al., 2023).
 *
 * A row is one query head of one new token. It sees its token's key and those before, of these the last `window`. Of a row and of those
 * that it sees of a block of EL_ATTENTION_KEYS keys, counted from position 0 whatever the window:
 *     score[t] = scale * sum_e q[e] key[t, e]          a lane is a key, e in order
 *     largest  = max_t score[t], p[t] = exp(score[t] - largest)
 *     sum      = sum_t p[t]                            16 lanes, t in lane t mod 16, then the tree
 *     mixed[e] = sum_t p[t] value[t, e]                a lane is a head element, t in order
 * Blocks are merged in order, from the first that the row sees any of: sum and mixed of either side, times exp(its largest - the larger
 * one), are added. At last out = mixed / sum. So no bit depends on which rows and blocks are handled together, or by which thread, and a
 * window that hides nothing changes none.
 *
 * E is a multiple of 16. While one half of a block is read, keys or values, what is needed next is fetched into cache. */
enum {
    REGISTER_ROWS = 4, /* whose sums are in registers at a time, */
    REGISTER_VECTORS = 4, /* for so many vectors of keys or of head elements */
};

/* Up to EL_ATTENTION_ROWS rows that share a key/value head: rows first.. of its [L, shared], shared = H/G. */
typedef struct {
    const el_attention *a;
    int64_t position, kv_head, shared, first, count;
} row_tile;

/* What the rows of a tile make of one block, or of several merged. */
typedef struct {
    float largest[EL_ATTENTION_ROWS], sum[EL_ATTENTION_ROWS];
    float mixed[]; /* [EL_ATTENTION_ROWS, E] */
} partial;

static inline int64_t heads_sharing(const el_attention *a) { return a->heads / a->cache.heads; }

/* Where row i's head begins in q and out. */
static inline int64_t row_offset(const row_tile *tile, int64_t i)
{
    int64_t row = tile->first + i;
    return (row / tile->shared * tile->a->heads + tile->kv_head * tile->shared + row % tile->shared) * tile->a->cache.head_dim;
}

/* How many keys row i sees: its own token's and those before. */
static inline int64_t row_keys(const row_tile *tile, int64_t i)
{
    return tile->position + (tile->first + i) / tile->shared + 1;
}

/* Of a row that would see so many keys, those that its window hides. */
static inline int64_t keys_hidden(const row_tile *tile, int64_t keys)
{
    int64_t hidden = keys - tile->a->window;
    return hidden > 0 ? hidden : 0;
}

/* The tile's row that is this many tokens after the new ones' first, or the tile's end on that side. */
static inline int64_t row_of_token(const row_tile *tile, int64_t token)
{
    int64_t row = token * tile->shared - tile->first;
    return row < 0 ? 0 : row < tile->count ? row : tile->count;
}

/* The first row that sees keys of the block or of later ones. */
static inline int64_t first_row(const row_tile *tile, int64_t block)
{
    return row_of_token(tile, block * EL_ATTENTION_KEYS - tile->position);
}

/* The end of the rows that see keys before the block: for the later ones all of these are out of the window. */
static inline int64_t rows_begun(const row_tile *tile, int64_t block)
{
    return row_of_token(tile, block * EL_ATTENTION_KEYS + tile->a->window - 1 - tile->position);
}

static inline int64_t blocks_of(int64_t keys) { return (keys + EL_ATTENTION_KEYS - 1) / EL_ATTENTION_KEYS; }

/* The first block that the tile's rows see any of. */
static inline int64_t first_block(const row_tile *tile) { return keys_hidden(tile, row_keys(tile, 0)) / EL_ATTENTION_KEYS; }

/* How many of the vectors left are handled at a time with so many rows: 4, 2 or 1. */
INLINE int vectors_at_once(int64_t left, int rows)
{
    for (int n = REGISTER_VECTORS; n > 1; n /= 2)
        if (n * rows <= V_SUMS && n <= left)
            return n;
    return 1;
}

/* A few rows and one block of keys. */
typedef struct {
    const el_attention *a;
    int64_t at;                  /* of the block's first element among the keys, and among the values */
    int64_t next, next_keys;     /* how far on the keys lie that are needed after it, and how many they are */
    int64_t from[REGISTER_ROWS], to[REGISTER_ROWS]; /* keys from.. to - 1 are what a row sees; from row to row neither falls */
    const float *q[REGISTER_ROWS];
    float p[REGISTER_ROWS][EL_ATTENTION_KEYS]; /* scores, then weights */
} row_block;

/* The scores of `count` times 16 keys, from key t on. */
INLINE void score_keys(row_block *b, int is_f16, int rows, int count, int64_t t)
{
    const el_cache *cache = &b->a->cache;
    int64_t at = b->at + t / EL_KEY_TILE * EL_KEY_TILE * cache->head_dim + t % EL_KEY_TILE;
    v16 sum[REGISTER_ROWS][REGISTER_VECTORS], key[REGISTER_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < count; i++)
            sum[r][i] = v_set1(0.0f);
    for (int64_t e = 0; e < cache->head_dim; e++, at += EL_KEY_TILE) {
        for (int i = 0; i < count; i++)
            key[i] = cache_load(cache->keys, at + i * 16, is_f16);
        cache_fetch(cache->values, at, count, is_f16);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < count; i++)
                sum[r][i] = v_fma(v_set1(b->q[r][e]), key[i], sum[r][i]);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < count; i++)
            v_store(b->p[r] + t + i * 16, v_mul(sum[r][i], v_set1(b->a->scale)));
}

/* a in lanes from.. to - 1, else b. */
INLINE v16 keep_between(v16 a, int64_t from, int64_t to, v16 b)
{
    a = v_keep_n(a, to, b);
    return from > 0 ? v_keep_n(b, from, a) : a;
}

/* scores[i] = exp(scores[i] - largest) for lanes from.. to - 1, and 0 beside them; gives the same. */
INLINE v16 exponentiate_16(float *scores, int64_t from, int64_t to, float largest)
{
    v16 p = keep_between(v_exp(v_sub(v_load(scores), v_set1(largest))), from, to, v_set1(0.0f));
    v_store(scores, p);
    return p;
}

/* scores[t] = exp(scores[t] - largest) of the keys seen, and 0 beside them in a whole 16; gives largest and their sum. */
static inline void exponentiate(float *scores, int64_t from, int64_t to, float *largest, float *sum)
{
    v16 lowest = v_set1(-INFINITY), top = lowest, total = v_set1(0.0f);
    int64_t begin = from / 16 * 16, whole = (from + 15) / 16 * 16; /* apart: 16 of which the first are not seen */
    if (begin < whole)
        top = v_max(keep_between(v_load(scores + begin), from - begin, to - begin, lowest), top);
    for (int64_t t = whole; t < to; t += 16)
        top = v_max(v_keep_n(v_load(scores + t), to - t, lowest), top);
    *largest = v_hmax(top);
    if (begin < whole)
        total = v_add(total, exponentiate_16(scores + begin, from - begin, to - begin, *largest));
    for (int64_t t = whole; t < to; t += 16)
        total = v_add(total, exponentiate_16(scores + t, 0, to - t, *largest));
    *sum = v_hsum(total);
}

/* sum + the weighted values of keys from.. to - 1, one row's 16 elements from `at` on. */
INLINE v16 mix_row(const row_block *b, int is_f16, int r, int64_t from, int64_t to, int64_t at, v16 sum)
{
    for (int64_t t = from; t < to; t++)
        sum = v_fma(v_set1(b->p[r][t]), cache_load(b->a->cache.values, at + t * b->a->cache.head_dim, is_f16), sum);
    return sum;
}

/* mixed[r, e] of `count` times 16 elements, from element e on: the rows together where all see a key, before and after that each alone. */
INLINE void mix_values(const row_block *b, int is_f16, int rows, int count, int64_t e, float *mixed)
{
    const el_cache *cache = &b->a->cache;
    int64_t at = b->at + e, dim = cache->head_dim, next_at = at + b->next;
    v16 sum[REGISTER_ROWS][REGISTER_VECTORS], value[REGISTER_VECTORS];
    int64_t from = b->from[rows - 1], to = b->to[0] > from ? b->to[0] : from;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < count; i++)
            sum[r][i] = v_set1(0.0f);
    for (int r = 0; r < rows && b->from[r] < from; r++) /* which the last row does not see any more */
        for (int i = 0; i < count; i++)
            sum[r][i] = mix_row(b, is_f16, r, b->from[r], from < b->to[r] ? from : b->to[r], at + i * 16, sum[r][i]);
    for (int64_t t = from; t < to; t++) {
        for (int i = 0; i < count; i++)
            value[i] = cache_load(cache->values, at + t * dim + i * 16, is_f16);
        if (t < b->next_keys)
            cache_fetch(cache->keys, next_at + t * dim, count, is_f16);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < count; i++)
                sum[r][i] = v_fma(v_set1(b->p[r][t]), value[i], sum[r][i]);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < count; i++) {
            v16 all = mix_row(b, is_f16, r, to, b->to[r], at + i * 16, sum[r][i]);
            v_store(mixed + r * dim + e + i * 16, all);
        }
}

static inline void fill_row_block(row_block *b, const row_tile *tile, int64_t block, int64_t i, int rows)
{
    const el_cache *cache = &tile->a->cache;
    int64_t begin = block * EL_ATTENTION_KEYS, end = row_keys(tile, tile->count - 1), left = end - begin - EL_ATTENTION_KEYS;
    b->a = tile->a;
    b->at = (tile->kv_head * cache->context + begin) * cache->head_dim;
    if (left > 0) { /* the next block */
        b->next = EL_ATTENTION_KEYS * cache->head_dim;
        b->next_keys = (left + EL_KEY_TILE - 1) / EL_KEY_TILE * EL_KEY_TILE;
    } else { /* the next key/value head's first */
        int64_t first = first_block(tile) * EL_ATTENTION_KEYS;
        b->next = (cache->context - begin + first) * cache->head_dim;
        b->next_keys = end - first;
    }
    for (int r = 0; r < rows; r++) {
        int64_t keys = row_keys(tile, i + r), from = keys_hidden(tile, keys) - begin, to = keys - begin;
        b->from[r] = from > 0 ? from : 0;
        b->to[r] = to < EL_ATTENTION_KEYS ? to : EL_ATTENTION_KEYS;
        b->q[r] = tile->a->q + row_offset(tile, i + r);
    }
}

/* Rows i.. i + rows - 1 of the tile, and one block. */
INLINE void attend_rows(const row_tile *tile, int is_f16, int64_t block, int64_t i, int rows, partial *out)
{
    row_block b;
    fill_row_block(&b, tile, block, i, rows);
    int64_t dim = tile->a->cache.head_dim;
    for (int64_t t = b.from[0] / EL_KEY_TILE * EL_KEY_TILE, n; t < b.to[rows - 1]; t += n * 16)
        switch (n = vectors_at_once((b.to[rows - 1] - t + 15) / 16, rows)) { /* constants, so that sums stay in registers */
        case 4: score_keys(&b, is_f16, rows, 4, t); break;
        case 2: score_keys(&b, is_f16, rows, 2, t); break;
        default: score_keys(&b, is_f16, rows, 1, t); break;
        }
    for (int r = 0; r < rows; r++)
        exponentiate(b.p[r], b.from[r], b.to[r], &out->largest[i + r], &out->sum[i + r]);
    for (int64_t e = 0, n; e < dim; e += n * 16)
        switch (n = vectors_at_once((dim - e) / 16, rows)) {
        case 4: mix_values(&b, is_f16, rows, 4, e, out->mixed + i * dim); break;
        case 2: mix_values(&b, is_f16, rows, 2, e, out->mixed + i * dim); break;
        default: mix_values(&b, is_f16, rows, 1, e, out->mixed + i * dim); break;
        }
}

INLINE void attend_as(const row_tile *tile, int is_f16, int64_t block, partial *out)
{
    int64_t end = rows_begun(tile, block + 1);
    for (int64_t i = first_row(tile, block); i < end; i += REGISTER_ROWS)
        switch (end - i) {
        case 1: attend_rows(tile, is_f16, block, i, 1, out); break;
        case 2: attend_rows(tile, is_f16, block, i, 2, out); break;
        case 3: attend_rows(tile, is_f16, block, i, 3, out); break;
        default: attend_rows(tile, is_f16, block, i, 4, out); break;
        }
}

/* Every row of the tile that sees keys of the block, and that block. */
static void attend(const row_tile *tile, int64_t block, partial *out)
{
    if (tile->a->cache.is_f16)
        attend_as(tile, 1, block, out);
    else
        attend_as(tile, 0, block, out);
}

/* total = total merged with what the rows make of a later block. That is the first block of rows begun.. on, and taken as it is. */
static void merge(const row_tile *tile, int64_t block, partial *total, const partial *part)
{
    int64_t dim = tile->a->cache.head_dim, first = first_row(tile, block), begun = rows_begun(tile, block);
    v16 before = v_load(total->largest), here = v_load(part->largest), largest = v_max(here, before); /* a lane is a row */
    v16 keep = v_exp(v_sub(before, largest)), add = v_exp(v_sub(here, largest));
    v16 sum = v_fma(v_load(part->sum), add, v_mul(v_load(total->sum), keep));
    v_store(total->largest, v_keep_n(before, first, v_keep_n(largest, begun, v_load(part->largest))));
    v_store(total->sum, v_keep_n(v_load(total->sum), first, v_keep_n(sum, begun, v_load(part->sum))));
    float keeps[16], adds[16];
    v_store(keeps, keep);
    v_store(adds, add);
    for (int64_t i = first; i < begun; i++)
        for (int64_t e = i * dim; e < (i + 1) * dim; e += 16) {
            v16 kept = v_mul(v_load(total->mixed + e), v_set1(keeps[i]));
            v_store(total->mixed + e, v_fma(v_load(part->mixed + e), v_set1(adds[i]), kept));
        }
    size_t new_rows = (size_t)(rows_begun(tile, block + 1) - begun);
    memcpy(total->mixed + begun * dim, part->mixed + begun * dim, new_rows * (size_t)dim * sizeof *part->mixed);
}

static void write_out(const row_tile *tile, const partial *total)
{
    int64_t dim = tile->a->cache.head_dim;
    for (int64_t i = 0; i < tile->count; i++) {
        float *out = tile->a->out + row_offset(tile, i);
        v16 inverse = v_set1(1.0f / total->sum[i]);
        for (int64_t e = 0; e < dim; e += 16)
            v_store(out + e, v_mul(v_load(total->mixed + i * dim + e), inverse));
    }
}

static inline row_tile tile_of_unit(const el_attention *a, const el_step *step, int64_t unit, int64_t tiles)
{
    int64_t shared = heads_sharing(a), first = unit % tiles * EL_ATTENTION_ROWS, left = step->n_tokens * shared - first;
    return (row_tile){a, step->position, unit / tiles, shared, first, left < EL_ATTENTION_ROWS ? left : EL_ATTENTION_ROWS};
}

/* Few rows: threads share out the blocks of keys, and whichever finishes a unit's last one merges them. */
static void share_blocks(const el_attention *a, const el_step *step, int64_t tiles, el_team team)
{
    int64_t size = EL_ATTENTION_ROWS * (2 + a->cache.head_dim), most = blocks_of(a->cache.context);
    row_tile first_tile = tile_of_unit(a, step, 0, tiles);
    int64_t first = first_block(&first_tile), blocks = blocks_of(step->position + step->n_tokens) - first; /* of every tile */
    el_range share = el_share(tiles * a->cache.heads * blocks, team);
    for (int64_t u = share.begin; u < share.end; u++) {
        int64_t unit = u / blocks, block = first + u % blocks;
        row_tile tile = tile_of_unit(a, step, unit, tiles);
        float *parts = a->partials + unit * most * size;
        attend(&tile, block, (partial *)(parts + block * size));
        if (__atomic_add_fetch(a->arrived + unit, 1, __ATOMIC_ACQ_REL) < blocks)
            continue;
        __atomic_store_n(a->arrived + unit, 0, __ATOMIC_RELAXED);
        partial *total = (partial *)(parts + first * size);
        for (int64_t b = first + 1; b < first + blocks; b++)
            merge(&tile, b, total, (partial *)(parts + b * size));
        write_out(&tile, total);
    }
}

/* Many rows: threads share out the tiles of rows, and merge blocks as they go. */
static void share_tiles(const el_attention *a, const el_step *step, int64_t tiles, el_team team)
{
    float total[EL_ATTENTION_ROWS * (2 + EL_MAX_HEAD_DIM)], part[EL_ATTENTION_ROWS * (2 + EL_MAX_HEAD_DIM)];
    memset(total, 0, sizeof(partial)); /* lanes of rows that a tile lacks */
    memset(part, 0, sizeof(partial));
    for (int64_t unit = team.thread; unit < tiles * a->cache.heads; unit += team.threads) { /* in turn: later rows see more keys */
        row_tile tile = tile_of_unit(a, step, unit, tiles);
        int64_t first = first_block(&tile), blocks = blocks_of(row_keys(&tile, tile.count - 1));
        attend(&tile, first, (partial *)total);
        for (int64_t block = first + 1; block < blocks; block++) {
            attend(&tile, block, (partial *)part);
            merge(&tile, block, (partial *)total, (partial *)part);
        }
        write_out(&tile, (partial *)total);
    }
}

void EL_KERNEL(el_attention)(const el_args *args, const el_step *step, el_team team)
{
    const el_attention *a = &args->attention;
    int64_t shared = heads_sharing(a), tiles_of_a_token = (shared + EL_ATTENTION_ROWS - 1) / EL_ATTENTION_ROWS;
    int64_t tiles = (step->n_tokens * shared + EL_ATTENTION_ROWS - 1) / EL_ATTENTION_ROWS;
    if (tiles == tiles_of_a_token)
        share_blocks(a, step, tiles, team);
    else
        share_tiles(a, step, tiles, team);
}
