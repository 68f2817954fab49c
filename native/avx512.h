// Sixteen lanes: AVX-512 F, BW, VL and DQ.
#pragma once

#include <immintrin.h>

#include "call.h"

namespace stn {
namespace {

struct Vector {
  using F = __m512;
  using I = __m512i;
  using M = __mmask16;
  static constexpr int N = 16;

  STN_HOT static F set(float x) { return _mm512_set1_ps(x); }
  STN_HOT static F zero() { return _mm512_setzero_ps(); }
  STN_HOT static F load(const float* p) { return _mm512_loadu_ps(p); }
  STN_HOT static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  STN_HOT static void store(int* p, I x) { _mm512_storeu_si512(p, x); }
  STN_HOT static void prefetch(const float* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
  STN_HOT static F iota() {
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
  STN_HOT static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // b where a is not a number.
  STN_HOT static F max(F a, F b) { return _mm512_max_ps(a, b); }
  STN_HOT static F min(F a, F b) { return _mm512_min_ps(a, b); }
  STN_HOT static F abs(F a) { return _mm512_abs_ps(a); }
  STN_HOT static F floor(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  STN_HOT static I to_int(F a) { return _mm512_cvttps_epi32(a); }
  STN_HOT static I set_int(int x) { return _mm512_set1_epi32(x); }
  STN_HOT static I multiply_add(I a, I b, I c) {
    return _mm512_add_epi32(_mm512_mullo_epi32(a, b), c);
  }

  STN_HOT static M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  STN_HOT static M equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  STN_HOT static M both(M a, M b) { return a & b; }
  STN_HOT static M without(M a, M b) { return static_cast<M>(a & ~b); }
  STN_HOT static bool all(M m) { return m == 0xffff; }
  STN_HOT static bool any(M m) { return m != 0; }
  STN_HOT static F select(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
  STN_HOT static F keep(M m, F x) { return _mm512_maskz_mov_ps(m, x); }

  // left[r][l] = p[offset[l] + r * step], right the next pixel: one 64-bit load for both.
  STN_HOT static void quads(const float* p, int64_t step, const int* offset, F* left, F* right) {
    const F a = four(p, step, offset), b = four(p, step, offset + 1);
    const F c = four(p, step, offset + 2), d = four(p, step, offset + 3);
    const F ab = _mm512_unpacklo_ps(a, b), cd = _mm512_unpacklo_ps(c, d);
    left[0] = _mm512_shuffle_ps(ab, cd, 0x44);
    right[0] = _mm512_shuffle_ps(ab, cd, 0xee);
    const F below_ab = _mm512_unpackhi_ps(a, b), below_cd = _mm512_unpackhi_ps(c, d);
    left[1] = _mm512_shuffle_ps(below_ab, below_cd, 0x44);
    right[1] = _mm512_shuffle_ps(below_ab, below_cd, 0xee);
  }

  // Stores a[l], b[l] side by side; `pair_at` says where.
  STN_HOT static void store_pairs(float* p, F a, F b) {
    store(p, _mm512_unpacklo_ps(a, b));
    store(p + N, _mm512_unpackhi_ps(a, b));
  }
  static constexpr int pair_at(int lane) {
    return lane / 4 * 4 + lane % 2 * 2 + (lane % 4 < 2 ? 0 : N);
  }

  STN_HOT static float sum(F a) { return _mm512_reduce_add_ps(a); }

  STN_HOT static void transpose(F* v) {
    F t[16];
    for (int i = 0; i < 16; i += 4) {
      const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[i], v[i + 1]));
      const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(v[i], v[i + 1]));
      const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[i + 2], v[i + 3]));
      const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(v[i + 2], v[i + 3]));
      t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
      t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
      t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
      t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for (int i = 0; i < 4; ++i) {
      const F a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
      const F b = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
      const F c = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
      const F d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
      v[i] = _mm512_shuffle_f32x4(a, b, 0x88);
      v[i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
      v[i + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
      v[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
  }

  // Lane l of join(u) is the sum of all lanes of v[l], where u[i] = fours(v + 4 i).
  STN_HOT static F fours(const F* w) {
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(w[0], w[1]) + _mm512_unpackhi_ps(w[0], w[1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpacklo_ps(w[2], w[3]) + _mm512_unpackhi_ps(w[2], w[3]));
    return _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)) + _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
  }
  STN_HOT static F join(const F* u) {
    const F a = _mm512_shuffle_f32x4(u[0], u[1], 0x44) + _mm512_shuffle_f32x4(u[0], u[1], 0xee);
    const F b = _mm512_shuffle_f32x4(u[2], u[3], 0x44) + _mm512_shuffle_f32x4(u[2], u[3], 0xee);
    return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
  }

  // The first n lanes, the others zero.
  STN_HOT static M first(int n) { return static_cast<M>(_bzhi_u32(0xffff, n)); }
  STN_HOT static F load_some(const float* p, int n) {
    return n >= N ? load(p) : _mm512_maskz_loadu_ps(first(n), p);
  }
  STN_HOT static void store_some(float* p, int n, F x) {
    n >= N ? store(p, x) : _mm512_mask_storeu_ps(p, first(n), x);
  }

  template <int64_t TYPE>
  STN_HOT static F read(const void* from, int64_t i, int n) {
    if constexpr (TYPE == kFloat) {
      return load_some(static_cast<const float*>(from) + i, n);
    } else {
      const __m256i bits =
          _mm256_maskz_loadu_epi16(first(n), static_cast<const uint16_t*>(from) + i);
      if constexpr (TYPE == kHalf) return _mm512_cvtph_ps(bits);
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
  }

  template <int64_t TYPE>
  STN_HOT static void write(void* to, int64_t i, int n, F x) {
    if constexpr (TYPE == kFloat) {
      store_some(static_cast<float*>(to) + i, n, x);
    } else {
      __m256i bits;
      if constexpr (TYPE == kHalf) {
        bits = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      } else {
        const I wide = _mm512_castps_si512(x);
        const I odd = _mm512_and_si512(_mm512_srli_epi32(wide, 16), set_int(1));
        I rounded = _mm512_add_epi32(wide, _mm512_add_epi32(odd, set_int(0x7fff)));
        rounded = _mm512_srli_epi32(rounded, 16);
        rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                                        set_int(0x7fc0));
        bits = _mm512_cvtepi32_epi16(rounded);
      }
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(to) + i, first(n), bits);
    }
  }

 private:
  // Two lines of one lane.
  STN_HOT static __m128 two(const float* p, int64_t step, int offset) {
    const __m128 low = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(p + offset)));
    return _mm_loadh_pi(low, reinterpret_cast<const __m64*>(p + step + offset));
  }
  // Lanes 0, 4, 8, 12.
  STN_HOT static __m512 four(const float* p, int64_t step, const int* offset) {
    __m512 lanes = _mm512_castps128_ps512(two(p, step, offset[0]));
    lanes = _mm512_insertf32x4(lanes, two(p, step, offset[4]), 1);
    lanes = _mm512_insertf32x4(lanes, two(p, step, offset[8]), 2);
    return _mm512_insertf32x4(lanes, two(p, step, offset[12]), 3);
  }
};

}  // namespace
}  // namespace stn
