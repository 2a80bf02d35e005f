/* Integer matrix multiplication, scalar: the shortest correct statement, and the bit oracle.
 *
 * Groups of weights are handled in order, and in each group its planes p and blocks b (of 32 columns) in order:
 *   isum[p, b] = the exact int32 dot product of the block's codes and the activation's
 *   part[p]    = sum over b of fma(x_scale[b], isum[p, b], part[p]), from 0;
 *                or, where a token's activations share one scale, x_scale * (float)(sum over b of isum[p, b])
 *   out        = fma(scale[p], part[p], out) for each p, and then, with minimums,
 *                fma(minimum, x_scaled_sum[b], out) for each b. */
#include "../edgellm.h"

INLINE void block_sums(int scheme, const uint8_t *plane, const int8_t *x, int32_t isum[EL_TILE])
{
    for (int k = 0; k < EL_BLOCK; k++)
        for (int r = 0; r < EL_TILE; r++)
            isum[r] += el_code_at(scheme, EL_MULTIPLY_ADD, plane, r, k) * x[k];
}

/* part[p, r] of the group whose blocks are begin..end - 1. */
INLINE void group_parts(const el_matmul *a, int scheme, const uint8_t *codes, int64_t token, int64_t begin, int64_t end,
                        float part[EL_MAX_PLANES][EL_TILE])
{
    int64_t blocks = a->w.cols / EL_BLOCK;
    int per_token = a->x.group != EL_BLOCK;
    const int8_t *x = a->x.codes + token * a->w.cols;
    for (int p = 0; p < el_planes(scheme); p++) {
        int32_t isum[EL_TILE] = {0};
        memset(part[p], 0, sizeof part[p]);
        for (int64_t b = begin; b < end; b++) {
            block_sums(scheme, codes + b * el_block_bytes(scheme) + p * el_plane_bytes(scheme), x + b * EL_BLOCK, isum);
            if (per_token && b + 1 < end)
                continue;
            for (int r = 0; r < EL_TILE; r++)
                part[p][r] = fmaf(a->x.scales[per_token ? token : token * blocks + b], (float)isum[r], part[p][r]);
            memset(isum, 0, sizeof isum);
        }
    }
}

INLINE void tile_times_vector(const el_matmul *a, int scheme, int64_t tile, int64_t token, float acc[EL_TILE])
{
    int64_t blocks = a->w.cols / EL_BLOCK, group_blocks = a->w.group / EL_BLOCK;
    const uint8_t *codes = a->w.codes + tile * blocks * el_block_bytes(scheme);
    const uint16_t *scales = a->w.scales + tile * el_groups(&a->w) * el_scale_rows(scheme) * EL_TILE;
    memset(acc, 0, EL_TILE * sizeof(float));
    for (int64_t begin = 0; begin < blocks; begin += group_blocks) {
        int64_t end = begin + group_blocks < blocks ? begin + group_blocks : blocks;
        float part[EL_MAX_PLANES][EL_TILE];
        group_parts(a, scheme, codes, token, begin, end, part);
        for (int p = 0; p < el_planes(scheme); p++, scales += EL_TILE)
            for (int r = 0; r < EL_TILE; r++)
                acc[r] = fmaf(el_f32_from_f16(scales[r]), part[p][r], acc[r]);
        if (!el_has_min(scheme))
            continue;
        for (int64_t b = begin; b < end; b++)
            for (int r = 0; r < EL_TILE; r++)
                acc[r] = fmaf(el_f32_from_f16(scales[r]), a->x.scaled_sums[token * blocks + b], acc[r]);
        scales += EL_TILE;
    }
}

INLINE void multiply(const el_matmul *a, int scheme, el_range tiles, int64_t tokens)
{
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++)
        for (int64_t token = 0; token < tokens; token++) {
            float acc[EL_TILE];
            tile_times_vector(a, scheme, tile, token, acc);
            for (int64_t n = tile * EL_TILE; n < a->w.rows && n < (tile + 1) * EL_TILE; n++) {
                float *out = a->out + token * a->out_cols + n;
                *out = (a->accumulate ? *out : 0.0f) + acc[n % EL_TILE];
            }
        }
}

void el_matmul__scalar(const el_args *args, const el_step *step, el_team team)
{
    const el_matmul *a = &args->matmul;
    int64_t tokens = a->outputs_only ? step->n_outputs : step->n_tokens;
    el_range tiles = el_share(el_tiles(a->w.rows), team);
#define MULTIPLY(scheme) multiply(a, scheme, tiles, tokens)
    switch (a->w.scheme) { EL_SCHEME_CASES(MULTIPLY) }
}
