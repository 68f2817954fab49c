// The C interface of antialiased sampling, its scalar kernels, and the footprints of Jacobians.
#include "antialias_run.h"

namespace stn {

void run_antialias_avx2(Work work, const void* call);
void run_antialias_avx512(Work work, const void* call);

namespace {

constexpr double kMaxSlope = 1e6;  // as antialias.py

void run_level(Work work, const void* call) {
#ifdef STN_X86
  const int64_t level = static_cast<const Antialias*>(call)->level;
  if (level == kAvx512) return run_antialias_avx512(work, call);
  if (level == kAvx2) return run_antialias_avx2(work, call);
#endif
  run_antialias(work, call);
}

// J J^T = U diag(x) U^T and the footprint's singular values f = sqrt(x) within [1, bound].
struct Spectrum {
  int n;
  bool finite = true;
  double j[3][3] = {}, u[3][3] = {}, x[3], f[3];
  int piece[3];  // of f: 1, sqrt, bound

  Spectrum(const double* jacobian, int dim, double bound) : n(dim) {
    double m[3][3];
    for (int i = 0; i < n * n; ++i) {
      finite &= std::isfinite(jacobian[i]);
      j[i / n][i % n] = std::min(std::max(jacobian[i], -kMaxSlope), kMaxSlope);
    }
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b < n; ++b) {
        m[a][b] = 0;
        for (int k = 0; k < n; ++k) m[a][b] += finite ? j[a][k] * j[b][k] : 0;
        u[a][b] = a == b;
      }
    }
    // Jacobi's rotations; one of them is all in two dimensions.
    for (int sweep = 0; sweep < 12; ++sweep) {
      double off = 0, size = 0;
      for (int a = 0; a < n; ++a) {
        size += m[a][a];
        for (int b = 0; b < a; ++b) off += std::fabs(m[a][b]);
      }
      if (off <= 1e-17 * size) break;
      for (int a = 0; a < n; ++a) {
        for (int b = a + 1; b < n; ++b) rotate(m, a, b);
      }
    }
    for (int a = 0; a < n; ++a) {
      x[a] = m[a][a];
      const double root = std::sqrt(std::max(x[a], 0.0));
      const bool low = x[a] <= 1 + 1e-9, high = root >= bound;
      f[a] = std::min(low ? 1 : root, bound);
      piece[a] = high - low;
    }
  }

  void rotate(double m[3][3], int a, int b) {
    if (m[a][b] == 0) return;
    const double turn = (m[b][b] - m[a][a]) / (2 * m[a][b]);
    const double t = (turn >= 0 ? 1 : -1) / (std::fabs(turn) + std::sqrt(turn * turn + 1));
    const double cos = 1 / std::sqrt(t * t + 1), sin = t * cos;
    const auto mix = [&](double& p, double& q) {
      const double old = p;
      p = cos * old - sin * q;
      q = sin * old + cos * q;
    };
    for (int k = 0; k < n; ++k) mix(m[k][a], m[k][b]);
    for (int k = 0; k < n; ++k) mix(m[a][k], m[b][k]);
    for (int k = 0; k < n; ++k) mix(u[k][a], u[k][b]);
    m[a][b] = m[b][a] = 0;
  }

  void inverse(double* to) const {
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b < n; ++b) {
        double sum = 0;
        for (int k = 0; k < n; ++k) sum += u[a][k] * u[b][k] / f[k];
        to[a * n + b] = sum;
      }
    }
  }

  // From d loss / d inverse; divided differences as in linalg.bounded_root.
  void backward(const double* grad, double* to) const {
    double turned[3][3], back[3][3];
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b < n; ++b) {
        double sum = 0;
        for (int k = 0; k < n * n; ++k) sum += u[k / n][a] * grad[k] * u[k % n][b];
        const bool same = piece[a] == piece[b];
        const double first = same ? (piece[a] == 0) / (f[a] + f[b]) : (f[a] - f[b]) / (x[a] - x[b]);
        turned[a][b] = -sum * first / (f[a] * f[b]);
      }
    }
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b < n; ++b) {
        back[a][b] = 0;
        for (int k = 0; k < n * n; ++k) {
          back[a][b] += u[a][k / n] * turned[k / n][k % n] * u[b][k % n];
        }
      }
    }
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b < n; ++b) {
        double sum = 0;
        for (int k = 0; k < n; ++k) sum += (back[a][k] + back[k][a]) * j[k][b];
        to[a * n + b] = finite && std::fabs(j[a][b]) < kMaxSlope ? sum : 0;
      }
    }
  }
};

void footprints(const double* jacobian, const double* grad, double* to, int64_t count, int dim,
                double bound) {
  for_each_range(count, 512, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * dim * dim; i < end * dim * dim; i += dim * dim) {
      const Spectrum spectrum(jacobian + i, dim, bound);
      grad ? spectrum.backward(grad + i, to + i) : spectrum.inverse(to + i);
    }
  });
}

}  // namespace
}  // namespace stn

extern "C" {
#define STN_API __attribute__((visibility("default")))

STN_API int64_t stn_antialias_call_bytes() { return sizeof(stn::Antialias); }

STN_API void stn_antialias_forward(const void* call) { stn::run_level(stn::kForward, call); }

// Writes grad_px, grad_inverse and, where they are needed below, the sums of weights.
STN_API void stn_antialias_backward_places(const void* call) {
  stn::run_level(stn::kBackwardPlaces, call);
}

STN_API void stn_antialias_backward_input(const void* call) {
  stn::run_level(stn::kBackwardInput, call);
}

// Inverse footprints of `count` Jacobians, or, given `grad`, the gradient to the Jacobians.
STN_API void stn_antialias_footprints(const void* jacobian, const void* grad, void* to,
                                      int64_t count, int64_t dim, double bound) {
  stn::footprints(static_cast<const double*>(jacobian), static_cast<const double*>(grad),
                  static_cast<double*>(to), count, static_cast<int>(dim), bound);
}
}
