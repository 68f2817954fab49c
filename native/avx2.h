// Eight lanes: AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include "call.h"

namespace stn {
namespace {

struct Vector {
  using F = __m256;
  using I = __m256i;
  using M = __m256;
  static constexpr int N = 8;

  STN_HOT static F set(float x) { return _mm256_set1_ps(x); }
  STN_HOT static F zero() { return _mm256_setzero_ps(); }
  STN_HOT static F load(const float* p) { return _mm256_loadu_ps(p); }
  STN_HOT static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  STN_HOT static void store(int* p, I x) { _mm256_storeu_si256(reinterpret_cast<I*>(p), x); }
  STN_HOT static void prefetch(const float* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
  STN_HOT static F iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
  STN_HOT static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  // b where a is not a number.
  STN_HOT static F max(F a, F b) { return _mm256_max_ps(a, b); }
  STN_HOT static F min(F a, F b) { return _mm256_min_ps(a, b); }
  STN_HOT static F abs(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
  STN_HOT static F floor(F a) { return _mm256_floor_ps(a); }
  STN_HOT static I to_int(F a) { return _mm256_cvttps_epi32(a); }
  STN_HOT static I set_int(int x) { return _mm256_set1_epi32(x); }
  STN_HOT static I multiply_add(I a, I b, I c) { return _mm256_add_epi32(_mm256_mullo_epi32(a, b), c); }

  STN_HOT static M less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  STN_HOT static M equal(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  STN_HOT static M both(M a, M b) { return _mm256_and_ps(a, b); }
  STN_HOT static M without(M a, M b) { return _mm256_andnot_ps(b, a); }
  STN_HOT static bool all(M m) { return _mm256_movemask_ps(m) == 0xff; }
  STN_HOT static bool any(M m) { return _mm256_movemask_ps(m) != 0; }
  STN_HOT static F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
  STN_HOT static F keep(M m, F x) { return _mm256_and_ps(m, x); }

  // left[r][l] = p[offset[l] + r * step], right the next pixel: one 64-bit load for both.
  STN_HOT static void quads(const float* p, int64_t step, const int* offset, F* left, F* right) {
    const F a = four(p, step, offset), b = four(p, step, offset + 1);
    const F c = four(p, step, offset + 2), d = four(p, step, offset + 3);
    const F ab = _mm256_unpacklo_ps(a, b), cd = _mm256_unpacklo_ps(c, d);
    left[0] = _mm256_shuffle_ps(ab, cd, 0x44);
    right[0] = _mm256_shuffle_ps(ab, cd, 0xee);
    const F below_ab = _mm256_unpackhi_ps(a, b), below_cd = _mm256_unpackhi_ps(c, d);
    left[1] = _mm256_shuffle_ps(below_ab, below_cd, 0x44);
    right[1] = _mm256_shuffle_ps(below_ab, below_cd, 0xee);
  }

  // Stores a[l], b[l] side by side; `pair_at` says where.
  STN_HOT static void store_pairs(float* p, F a, F b) {
    store(p, _mm256_unpacklo_ps(a, b));
    store(p + N, _mm256_unpackhi_ps(a, b));
  }
  static constexpr int pair_at(int lane) {
    return lane / 4 * 4 + lane % 2 * 2 + (lane % 4 < 2 ? 0 : N);
  }

  STN_HOT static float sum(F a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }

  STN_HOT static void transpose(F* v) {
    F t[8];
    for (int i = 0; i < 8; i += 4) {
      const F a = _mm256_unpacklo_ps(v[i], v[i + 1]), b = _mm256_unpackhi_ps(v[i], v[i + 1]);
      const F c = _mm256_unpacklo_ps(v[i + 2], v[i + 3]), d = _mm256_unpackhi_ps(v[i + 2], v[i + 3]);
      t[i] = _mm256_shuffle_ps(a, c, 0x44);
      t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
      t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
      v[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
  }

  // Lane l of join(u) is the sum of all lanes of v[l], where u[i] = fours(v + 4 i).
  STN_HOT static F fours(const F* w) {
    const F a = _mm256_unpacklo_ps(w[0], w[1]) + _mm256_unpackhi_ps(w[0], w[1]);
    const F b = _mm256_unpacklo_ps(w[2], w[3]) + _mm256_unpackhi_ps(w[2], w[3]);
    return _mm256_shuffle_ps(a, b, 0x44) + _mm256_shuffle_ps(a, b, 0xee);
  }
  STN_HOT static F join(const F* u) {
    return _mm256_permute2f128_ps(u[0], u[1], 0x20) + _mm256_permute2f128_ps(u[0], u[1], 0x31);
  }

  // The first n lanes, the others zero.
  STN_HOT static I first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  STN_HOT static F load_some(const float* p, int n) {
    return n >= N ? load(p) : _mm256_maskload_ps(p, first(n));
  }
  STN_HOT static void store_some(float* p, int n, F x) {
    n >= N ? store(p, x) : _mm256_maskstore_ps(p, first(n), x);
  }

  template <int64_t TYPE>
  STN_HOT static F read(const void* from, int64_t i, int n) {
    if constexpr (TYPE == kFloat) {
      return load_some(static_cast<const float*>(from) + i, n);
    } else {
      alignas(16) uint16_t some[N] = {};
      std::memcpy(some, static_cast<const uint16_t*>(from) + i, n >= N ? 16 : 2 * n);
      const __m128i bits = _mm_load_si128(reinterpret_cast<const __m128i*>(some));
      if constexpr (TYPE == kHalf) return _mm256_cvtph_ps(bits);
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
  }

  template <int64_t TYPE>
  STN_HOT static void write(void* to, int64_t i, int n, F x) {
    if constexpr (TYPE == kFloat) {
      store_some(static_cast<float*>(to) + i, n, x);
    } else {
      __m128i bits;
      if constexpr (TYPE == kHalf) {
        bits = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      } else {
        const I wide = _mm256_castps_si256(x);
        const I odd = _mm256_and_si256(_mm256_srli_epi32(wide, 16), set_int(1));
        I rounded = _mm256_add_epi32(wide, _mm256_add_epi32(odd, set_int(0x7fff)));
        rounded = _mm256_srli_epi32(rounded, 16);
        const I nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        rounded = _mm256_blendv_epi8(rounded, set_int(0x7fc0), nan);
        bits = _mm_packus_epi32(_mm256_castsi256_si128(rounded),
                                _mm256_extracti128_si256(rounded, 1));
      }
      alignas(16) uint16_t some[N];
      _mm_store_si128(reinterpret_cast<__m128i*>(some), bits);
      std::memcpy(static_cast<uint16_t*>(to) + i, some, n >= N ? 16 : 2 * n);
    }
  }

 private:
  // Two lines of one lane.
  STN_HOT static __m128 two(const float* p, int64_t step, int offset) {
    const __m128 low = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(p + offset)));
    return _mm_loadh_pi(low, reinterpret_cast<const __m64*>(p + step + offset));
  }
  // Lanes 0 and 4.
  STN_HOT static F four(const float* p, int64_t step, const int* offset) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(two(p, step, offset[0])),
                                two(p, step, offset[4]), 1);
  }
};

}  // namespace
}  // namespace stn
