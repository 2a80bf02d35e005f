/* Integer matrix multiplication and embedding, scalar: the shortest correct statement, and the bit oracle.
 *
 * out[l, n] = sum over groups g, in order, of fma(scale[n, g] * x_scale[l, g], isum, out) and, with minimums,
 * fma(minimum[n, g], x_scaled_sum[l, g], out); isum is the exact int32 dot product of the group's codes. */
#include "../edgellm.h"

/* Code of lane r, column k of a packed group, as an integer weight before its scale. */
static inline int32_t code_at(int scheme, const uint8_t *group, int r, int k)
{
    if (scheme == EL_INT8)
        return (int32_t)group[k / 4 * 64 + r * 4 + k % 4] - 128;
    int32_t code = group[k / 8 * 64 + r * 4 + k % 4] >> (k % 8 < 4 ? 0 : 4) & 15;
    return scheme == EL_INT4 ? code - 8 : code;
}

static void group_sums(int scheme, const uint8_t *group, const int8_t *x, int32_t isum[EL_TILE])
{
    memset(isum, 0, EL_TILE * sizeof(int32_t));
    for (int k = 0; k < EL_GROUP; k++)
        for (int r = 0; r < EL_TILE; r++)
            isum[r] += code_at(scheme, group, r, k) * x[k];
}

static void tile_times_vector(const el_matmul *a, int64_t tile, int64_t token, float acc[EL_TILE])
{
    int64_t groups = a->w.cols / EL_GROUP, group_bytes = a->w.scheme == EL_INT8 ? 512 : 256;
    int64_t parts = a->w.scheme == EL_INT4_MIN ? 2 : 1;
    memset(acc, 0, EL_TILE * sizeof(float));
    for (int64_t g = 0; g < groups; g++) {
        int64_t at = tile * groups + g, x_at = token * groups + g;
        const uint16_t *scales = a->w.scales + at * parts * EL_TILE;
        int32_t isum[EL_TILE];
        group_sums(a->w.scheme, a->w.codes + at * group_bytes, a->x.codes + x_at * EL_GROUP, isum);
        for (int r = 0; r < EL_TILE; r++) {
            acc[r] = fmaf(el_f32_from_f16(scales[r]) * a->x.scales[x_at], (float)isum[r], acc[r]);
            if (parts == 2)
                acc[r] = fmaf(el_f32_from_f16(scales[EL_TILE + r]), a->x.scaled_sums[x_at], acc[r]);
        }
    }
}

void el_matmul__scalar(const el_args *args, const el_step *step, el_team team)
{
    const el_matmul *a = &args->matmul;
    int64_t tokens = a->outputs_only ? step->n_outputs : step->n_tokens;
    el_range tiles = el_share(el_tiles(a->w.rows), team);
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++)
        for (int64_t token = 0; token < tokens; token++) {
            float acc[EL_TILE];
            tile_times_vector(a, tile, token, acc);
            for (int64_t n = tile * EL_TILE; n < a->w.rows && n < (tile + 1) * EL_TILE; n++) {
                float *out = a->out + token * a->w.rows + n;
                *out = (a->accumulate ? *out : 0.0f) + acc[n % EL_TILE];
            }
        }
}

void el_embed__scalar(const el_args *args, const el_step *step, el_team team)
{
    const el_embed *a = &args->embed;
    int64_t groups = a->table.cols / EL_GROUP, group_bytes = a->table.scheme == EL_INT8 ? 512 : 256;
    int64_t parts = a->table.scheme == EL_INT4_MIN ? 2 : 1;
    el_range share = el_share(step->n_tokens * groups, team);
    for (int64_t u = share.begin; u < share.end; u++) {
        int64_t row = a->tokens[u / groups], at = row / EL_TILE * groups + u % groups;
        int r = (int)(row % EL_TILE);
        const uint16_t *scales = a->table.scales + at * parts * EL_TILE;
        float scale = el_f32_from_f16(scales[r]), minimum = parts == 2 ? el_f32_from_f16(scales[EL_TILE + r]) : 0.0f;
        for (int k = 0; k < EL_GROUP; k++)
            a->out[u * EL_GROUP + k] = scale * (float)code_at(a->table.scheme, a->table.codes + at * group_bytes, r, k) + minimum;
    }
}
