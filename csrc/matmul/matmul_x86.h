/* Integer matrix multiplication for x86, written once over the 16 lanes of simd/v16_*.h and the quads of simd/q16_*.h; a lane is a row of a
 * tile. Where there are several tokens, TILES_AT_ONCE times TOKENS_AT_ONCE sums are held in registers: a code that was unpacked serves all
 * the tokens, an activation that was broadcast all the tiles. The file that includes this names its instruction set in EL_KERNEL and
 * defines what is only declared here. */
#define SUMS_AT_ONCE (TILES_AT_ONCE * TOKENS_AT_ONCE)

/* What the integer sum over a block starts from, of an activation's offset, so that it ends as the signed one. */
INLINE int32_t start(int scheme, int32_t offset);

/* sums[t * tokens + i] += the exact sums over a block of code * x, row by row, of tile t, whose plane is at plane + t * tile_bytes, and of
 * token i, whose activations are at x + i * cols. */
INLINE void add_block(int bits, const uint8_t *plane, int64_t tile_bytes, int tiles, const int8_t *x, int64_t cols, int tokens,
                      rows sums[SUMS_AT_ONCE]);

/* Quad q of a plane (pack.c) as unsigned bytes. */
INLINE quad unpack(int bits, const uint8_t *plane, int q)
{
    if (bits == 8)
        return q_load(plane + q * 64);
    if (bits == 4)
        return q_field(q_load(plane + q / 2 * 64), q % 2 * 4, 15);
    quad low = q_field(q_load(plane + q / 4 * 64), q % 4 * 2, 3);
    return bits == 2 ? low : q_or(low, q_field(q_load(plane + 128), q - 2, 4));
}

/* acc[t * tokens + i] = tile + t times token first + i, as matmul_scalar.c defines it. one_block: the weights' groups are single blocks. */
INLINE void tiles_times_tokens(const el_matmul *a, int scheme, int per_token, int one_block, int64_t tile, int tiles, int64_t first,
                               int tokens, v16 acc[SUMS_AT_ONCE])
{
    int bits = el_code_bits(scheme), planes = el_planes(scheme), sums = tiles * tokens;
    int64_t blocks = a->w.cols / EL_BLOCK, group_blocks = one_block ? 1 : a->w.group / EL_BLOCK, group_begin = 0;
    int64_t tile_bytes = blocks * el_block_bytes(scheme), tile_scales = el_groups(&a->w) * el_scale_rows(scheme) * EL_TILE;
    const uint8_t *plane = a->w.codes + tile * tile_bytes;
    const uint16_t *scales = a->w.scales + tile * tile_scales;
    v16 part[EL_MAX_PLANES][SUMS_AT_ONCE];
    rows isum[EL_MAX_PLANES][SUMS_AT_ONCE];
#pragma GCC unroll 8
    for (int j = 0; j < sums; j++) {
        acc[j] = v_set1(0.0f);
#pragma GCC unroll 3
        for (int p = 0; p < planes; p++) {
            part[p][j] = v_set1(0.0f);
            isum[p][j] = r_set1(0);
        }
    }
    for (int64_t b = 0; b < blocks; b++) {
        int64_t at = first * blocks + b;
#pragma GCC unroll 3
        for (int p = 0; p < planes; p++, plane += el_plane_bytes(scheme)) {
            rows sum[SUMS_AT_ONCE];
            if (tokens == 1)
                el_prefetch(plane, EL_AHEAD, el_plane_bytes(scheme));
#pragma GCC unroll 8
            for (int j = 0; j < sums; j++)
                sum[j] = r_set1(start(scheme, a->x.offsets[at + j % tokens * blocks]));
            add_block(bits, plane, tile_bytes, tiles, a->x.codes + at * EL_BLOCK, a->w.cols, tokens, sum);
#pragma GCC unroll 8
            for (int j = 0; j < sums; j++) {
                if (per_token)
                    isum[p][j] = r_add(isum[p][j], sum[j]);
                else
                    part[p][j] = v_fma(v_set1(a->x.scales[at + j % tokens * blocks]), r_float(sum[j]), part[p][j]);
            }
        }
        if (!one_block && b + 1 < blocks && b + 1 < group_begin + group_blocks)
            continue;
#pragma GCC unroll 3
        for (int p = 0; p < planes; p++, scales += EL_TILE) {
#pragma GCC unroll 8
            for (int j = 0; j < sums; j++) {
                if (per_token)
                    part[p][j] = v_mul(v_set1(a->x.scales[first + j % tokens]), r_float(isum[p][j]));
                acc[j] = v_fma(v_load_f16(scales + j / tokens * tile_scales), part[p][j], acc[j]);
                part[p][j] = v_set1(0.0f);
                isum[p][j] = r_set1(0);
            }
        }
        if (el_has_min(scheme)) {
            for (; group_begin <= b; group_begin++)
#pragma GCC unroll 8
                for (int j = 0; j < sums; j++)
                    acc[j] = v_fma(v_load_f16(scales + j / tokens * tile_scales),
                                   v_set1(a->x.scaled_sums[first * blocks + group_begin + j % tokens * blocks]), acc[j]);
            scales += EL_TILE;
        }
        group_begin = b + 1;
    }
}

INLINE void multiply_block(const el_matmul *a, int scheme, int per_token, int one_block, int64_t tile, int tiles, int64_t first, int tokens)
{
    v16 acc[SUMS_AT_ONCE];
    tiles_times_tokens(a, scheme, per_token, one_block, tile, tiles, first, tokens, acc);
#pragma GCC unroll 8
    for (int j = 0; j < tiles * tokens; j++) {
        int64_t row = (tile + j / tokens) * EL_TILE, valid = a->w.rows - row;
        float *out = a->out + (first + j % tokens) * a->out_cols + row;
        v_store_n(out, v_add(a->accumulate ? v_load_n(out, valid) : v_set1(0.0f), acc[j]), valid);
    }
}

INLINE void multiply(const el_matmul *a, int scheme, int per_token, int one_block, el_range share, int64_t tokens)
{
    int most = el_planes(scheme) == 1 ? TILES_AT_ONCE : 1, tiles;
    for (int64_t tile = share.begin; tile < share.end; tile += tiles) {
        int64_t token = 0;
        tiles = tile + most <= share.end ? most : 1;
        for (; token + TOKENS_AT_ONCE <= tokens; token += TOKENS_AT_ONCE)
            if (tiles == most) /* a constant */
                multiply_block(a, scheme, per_token, one_block, tile, most, token, TOKENS_AT_ONCE);
            else
                multiply_block(a, scheme, per_token, one_block, tile, 1, token, TOKENS_AT_ONCE);
        for (; token < tokens; token++)
            for (int t = 0; t < tiles; t++)
                multiply_block(a, scheme, per_token, one_block, tile + t, 1, token, 1);
    }
}

/* The usual group is one block, and known as a constant saves a loop. */
#define DEFINE_MULTIPLY(scheme)                                                                   \
    static void multiply_##scheme(const el_matmul *a, el_range share, int64_t tokens)             \
    {                                                                                             \
        if (a->x.group != EL_BLOCK)                                                               \
            multiply(a, scheme, 1, 0, share, tokens);                                             \
        else if (a->w.group != EL_BLOCK)                                                          \
            multiply(a, scheme, 0, 0, share, tokens);                                             \
        else                                                                                      \
            multiply(a, scheme, 0, 1, share, tokens);                                             \
    }
EL_SCHEMES(DEFINE_MULTIPLY)

void EL_KERNEL(el_matmul)(const el_args *args, const el_step *step, el_team team)
{
#define ENTRY(scheme) [scheme] = multiply_##scheme,
    static void (*const multiply_scheme[EL_SCHEME_COUNT])(const el_matmul *, el_range, int64_t) = {EL_SCHEMES(ENTRY)};
    const el_matmul *a = &args->matmul;
    multiply_scheme[a->w.scheme](a, el_share(el_tiles(a->w.rows), team), a->outputs_only ? step->n_outputs : step->n_tokens);
}
