/* Integer matrix multiplication, scalar: the shortest correct statement, and the bit oracle.
 *
 * out[l, n] = sum over groups g, in order, of fma(scale[n, g] * x_scale[l, g], isum, out) and, with minimums,
 * fma(minimum[n, g], x_scaled_sum[l, g], out); isum is the exact int32 dot product of the group's codes. */
#include "../edgellm.h"

static void group_sums(int scheme, const uint8_t *group, const int8_t *x, int32_t isum[EL_TILE])
{
    memset(isum, 0, EL_TILE * sizeof(int32_t));
    for (int k = 0; k < EL_GROUP; k++)
        for (int r = 0; r < EL_TILE; r++)
            isum[r] += el_code_at(scheme, group, r, k) * x[k];
}

static void tile_times_vector(const el_matmul *a, int64_t tile, int64_t token, float acc[EL_TILE])
{
    int64_t groups = a->w.cols / EL_GROUP, group_bytes = el_group_bytes(a->w.scheme);
    int64_t parts = el_scale_rows(a->w.scheme);
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
