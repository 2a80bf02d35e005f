/* A matrix in the lookup layout times one vector, by table lookup (T-MAC: Wei et al., 2024; TL1 of bitnet.cpp: Wang et al., 2024), written
 * once over the bytes of simd/b16_*.h and the floats of simd/v16_*.h. The integer of a block and plane is the one that matmul_scalar.c
 * defines, and everything after it is done in its order.
 *
 * Why it can pay: for 16 rows of 4 / bits columns a lookup takes a mask, perhaps a shift, two shuffles (the sum's low and high byte) and
 * two additions. Multiply-add in 16 bits takes as much for 16 rows of 2 columns, whatever the bits: lookup is at its best at one bit, loses
 * at four, and loses wherever one instruction multiplies and adds in 32 bits. */
#include "tables.h"

/* sum + weight * the sums of a block's codes of that many bits, less EL_TABLE_BIAS for each lookup where they have it. */
INLINE words look_up(int bits, int weight, const uint8_t *codes, const uint8_t *tables, words sum)
{
    int at_once = bits == 4 ? 4 : 8, lookups = 0;
    bytes low = b_zero(), high = b_zero();
    for (int at = 0; at < bits * EL_UNIT; at += B_CHUNKS * 16) {
        const uint8_t *table = tables + at / EL_UNIT * EL_UNIT_TABLES + at % EL_UNIT;
        bytes both = b_load(codes + at), first = b_low_half(both), second = b_high_half(both);
        low = b_add(low, b_add(b_lookup(b_load(table), first), b_lookup(b_load(table + 128), second)));
        high = b_add(high, b_add(b_lookup(b_load(table + 64), first), b_lookup(b_load(table + 192), second)));
        lookups += 2;
        if (lookups % at_once == 0 || at + B_CHUNKS * 16 == bits * EL_UNIT) {
            sum = w_add(sum, low, weight, high, weight * (bits == 4 ? 64 : 32));
            low = high = b_zero();
        }
    }
    return sum;
}

/* The same in the tables of lut8.h: one byte a sum, not biased. */
INLINE words look_up_rounded(int bits, const uint8_t *codes, const uint8_t *tables)
{
    words sum = w_zero();
    for (int at = 0; at < bits * EL_UNIT; at += B_CHUNKS * 16) {
        const uint8_t *table = tables + at / EL_UNIT * 2 * EL_UNIT + at % EL_UNIT;
        bytes both = b_load(codes + at);
        sum = w_add(sum, b_lookup(b_load(table), b_low_half(both)), 1, b_lookup(b_load(table + EL_UNIT), b_high_half(both)), 1);
    }
    return sum;
}

/* What the tables' sums of a block want added: their zeros are not the scheme's, and they are biased. */
INLINE int32_t lookup_start(int scheme, int32_t offset)
{
    int bits = el_code_bits(scheme), zero = bits == 4 ? 8 : 2; /* int3: of the low two bits; 0 of the high one */
    int lookups = bits == 4 ? 0 : bits == 3 ? 16 + 4 * 8 : 16;
    return el_start(scheme, offset) - zero * (offset / 8) + lookups * EL_TABLE_BIAS;
}

/* before + the exact sums of a block's plane, row by row; or, rounded, the sums in tables of lut8.h. */
INLINE rows block_sums(int scheme, int rounded, const uint8_t *plane, const el_activation *x, int64_t block, rows before)
{
    int bits = el_code_bits(scheme);
    if (rounded)
        return r_sum(look_up_rounded(bits, plane, x->tables[bits == 4 ? EL_SINGLES : EL_PAIRS] + block * bits * 2 * EL_UNIT));
    words sum = w_zero();
    if (bits == 4)
        sum = look_up(4, 1, plane, x->tables[EL_SINGLES] + block * 4 * EL_UNIT_TABLES, sum);
    else
        sum = look_up(2, 1, plane, x->tables[EL_PAIRS] + block * 2 * EL_UNIT_TABLES, sum);
    if (bits == 3)
        sum = look_up(1, 4, plane + 2 * EL_UNIT, x->tables[EL_QUADS] + block * EL_UNIT_TABLES, sum);
    return r_add(r_add(before, r_set1(lookup_start(scheme, x->offsets[block]))), r_sum(sum));
}

/* One tile times the vector, as matmul_scalar.c defines it. */
INLINE v16 tile_times_vector(const el_matmul *a, int scheme, int per_token, int rounded, int64_t tile)
{
    int planes = el_planes(scheme);
    int64_t blocks = a->w.cols / EL_BLOCK, group_blocks = a->w.group / EL_BLOCK, group_begin = 0;
    const uint8_t *plane = a->w.codes + tile * blocks * el_block_bytes(scheme);
    const uint16_t *scales = a->w.scales + tile * el_groups(&a->w) * el_scale_rows(scheme) * EL_TILE;
    v16 zero = v_set1(0.0f), acc = zero, part[EL_MAX_PLANES] = {zero, zero, zero};
    rows none = r_set1(0), isum[EL_MAX_PLANES] = {none, none, none};
    for (int64_t b = 0; b < blocks; b++) {
        for (int p = 0; p < planes; p++, plane += el_plane_bytes(scheme)) {
            el_prefetch(plane, EL_AHEAD, el_plane_bytes(scheme));
            rows sums = block_sums(scheme, rounded, plane, &a->x, b, isum[p]);
            if (per_token)
                isum[p] = sums;
            else
                part[p] = v_fma(v_set1(a->x.scales[b]), r_float(sums), part[p]);
        }
        if (b + 1 < blocks && b + 1 < group_begin + group_blocks)
            continue;
        for (int p = 0; p < planes; p++, scales += EL_TILE) {
            if (per_token)
                part[p] = v_mul(v_set1(a->x.scales[0]), r_float(isum[p]));
            acc = v_fma(v_load_f16(scales), part[p], acc);
            part[p] = zero;
            isum[p] = none;
        }
        if (el_has_min(scheme)) {
            v16 minimum = v_load_f16(scales);
            for (; group_begin <= b; group_begin++)
                acc = v_fma(minimum, v_set1(a->x.scaled_sums[group_begin]), acc);
            scales += EL_TILE;
        }
        group_begin = b + 1;
    }
    return acc;
}

INLINE void multiply_vector(const el_matmul *a, int scheme, int per_token, int rounded, el_range tiles)
{
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
        float *out = a->out + tile * EL_TILE;
        int64_t valid = a->w.rows - tile * EL_TILE;
        v16 before = a->accumulate ? v_load_n(out, valid) : v_set1(0.0f);
        v_store_n(out, v_add(before, tile_times_vector(a, scheme, per_token, rounded, tile)), valid);
    }
}

/* Of tiles in the lookup layout, the codes in the multiply-add layout. */
static void lay_out(const uint8_t *lookup, int64_t nbytes, uint8_t *multiply_add)
{
    for (int64_t unit = 0; unit < nbytes; unit += EL_UNIT)
        for (int r = 0; r < EL_TILE; r++)
            for (int c = 0; c < 4; c++)
                multiply_add[unit + r * 4 + c] = lookup[unit + c * EL_TILE + r];
}

/* Several vectors: multiply-add, which unpacks codes once for many of them, on a few tiles at a time. */
static void multiply_vectors(const el_matmul *a, const el_step *step, el_range tiles, uint8_t *room)
{
    int64_t codes_bytes = a->w.cols / EL_BLOCK * el_block_bytes(a->w.scheme);
    int64_t scales = el_groups(&a->w) * el_scale_rows(a->w.scheme) * EL_TILE;
    for (int64_t tile = tiles.begin; tile < tiles.end; tile += EL_LOOKUP_TILES) {
        int64_t count = tiles.end - tile < EL_LOOKUP_TILES ? tiles.end - tile : EL_LOOKUP_TILES, rows = a->w.rows - tile * EL_TILE;
        el_args some = {.matmul = *a};
        lay_out(a->w.codes + tile * codes_bytes, count * codes_bytes, room);
        some.matmul.w.layout = EL_MULTIPLY_ADD;
        some.matmul.w.codes = room;
        some.matmul.w.scales += tile * scales;
        some.matmul.w.rows = (int32_t)(rows < count * EL_TILE ? rows : count * EL_TILE);
        some.matmul.out += tile * EL_TILE;
        EL_KERNEL(el_matmul)(&some, step, (el_team){0, 1});
    }
}

void EL_KERNEL(el_lookup)(const el_args *args, const el_step *step, el_team team)
{
    const el_matmul *a = &args->matmul;
    el_range tiles = el_share(el_tiles(a->w.rows), team);
    int32_t tokens = a->outputs_only ? step->n_outputs : step->n_tokens;
    if (!tokens)
        return;
    if (tokens > 1) {
        multiply_vectors(a, step, tiles, a->x.tiles + team.thread * a->x.tiles_bytes);
        return;
    }
#define MULTIPLY_VECTOR(scheme)                     \
    if (a->x.group != EL_BLOCK)                     \
        multiply_vector(a, scheme, 1, 0, tiles);       \
    else                                            \
        multiply_vector(a, scheme, 0, 0, tiles)
    switch (a->w.scheme) { EL_NARROW_SCHEME_CASES(MULTIPLY_VECTOR) }
}

#include "lut8.h"
