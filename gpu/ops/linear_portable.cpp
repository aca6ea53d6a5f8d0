#include "gpu/base/half.h"
#include "gpu/ops/linear_kernel_body.h"

#include <cmath>
#include <cstring>

// Any processor: sixteen-lane vectors as plain arrays, in loops a compiler can turn into whatever
// vectors it has.
namespace troupe::cpu {
namespace {

struct Portable {
  template <class T>
  struct Lanes {
    T v[kPanelRows];
  };
  using Floats = Lanes<float>;
  using Ints = Lanes<int32_t>;
  using Doubles = Lanes<double>;
  template <bool kNibbles>
  struct Weights {
    const std::byte* codes;
  };
  static constexpr int kPlainTokens = 2;
  static constexpr int kTokenGroup = 1;

  template <class T, class F>
  static Lanes<T> each(F f) {
    Lanes<T> r;
    for (int64_t i = 0; i < kPanelRows; ++i) r.v[i] = f(i);
    return r;
  }

  static Ints zero() { return {}; }
  static Floats zero_floats() { return {}; }
  static Doubles zero_doubles() { return {}; }
  static Floats load_f32(const std::byte* p) {
    Floats r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static Lanes<uint16_t> load_u16(const std::byte* p) {
    Lanes<uint16_t> r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static Floats load_f16(const std::byte* p) {
    const Lanes<uint16_t> bits = load_u16(p);
    return each<float>([&](int64_t i) { return float_from_f16(bits.v[i]); });
  }
  static Floats load_bf16(const std::byte* p) {
    const Lanes<uint16_t> bits = load_u16(p);
    return each<float>([&](int64_t i) { return float_from_bf16(bits.v[i]); });
  }
  static Floats load_n(const float* p, int64_t n) {
    return each<float>([&](int64_t i) { return i < n ? p[i] : 0.0F; });
  }
  static void store_n(float* p, const Floats& v, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = v.v[i];
  }
  static Floats broadcast(const float* p) {
    return each<float>([&](int64_t) { return *p; });
  }
  static Ints broadcast(const int32_t* p) {
    return each<int32_t>([&](int64_t) { return *p; });
  }
  template <class T>
  static Lanes<T> add(const Lanes<T>& a, const Lanes<T>& b) {
    return each<T>([&](int64_t i) { return a.v[i] + b.v[i]; });
  }
  static Floats mul(const Floats& a, const Floats& b) {
    return each<float>([&](int64_t i) { return a.v[i] * b.v[i]; });
  }
  template <class T>
  static Lanes<T> fma(const Lanes<T>& a, const Lanes<T>& b, const Lanes<T>& c) {
    return each<T>([&](int64_t i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static Floats to_floats(const Ints& v) {
    return each<float>([&](int64_t i) { return static_cast<float>(v.v[i]); });
  }
  template <int kBits>
  static Ints shift_left(const Ints& v) {
    return each<int32_t>([&](int64_t i) { return v.v[i] * (1 << kBits); });
  }
  template <int kBits>
  static Ints shift_right(const Ints& v) {
    return each<int32_t>([&](int64_t i) { return v.v[i] >> kBits; });
  }
  static Doubles widen(const Floats& v) {
    return each<double>([&](int64_t i) { return static_cast<double>(v.v[i]); });
  }
  static Floats narrow(const Doubles& v) {
    return each<float>([&](int64_t i) { return static_cast<float>(v.v[i]); });
  }
  static Doubles broadcast_wide(const float* p) {
    return each<double>([&](int64_t) { return static_cast<double>(*p); });
  }

  template <bool kNibbles>
  static Weights<kNibbles> load_codes(const std::byte* p) {
    return {p};
  }

  template <int kFirst, int kLast, int kTokens, int kPart, bool kNibbles>
  static void dot(const Weights<kNibbles>& w, const ActivationBlock* x, Ints* sum) {
    static_assert(kTokens == 1);
    for (int j = kFirst; j < kLast; ++j) {
      const std::byte* part = w.codes + 64 * (kNibbles ? j % 4 : j);
      const int shift = kNibbles && j >= 4 ? 4 : 0;
      for (int64_t row = 0; row < kPanelRows; ++row) {
        for (int64_t i = 0; i < 4; ++i) {
          const auto byte = std::to_integer<int32_t>(part[4 * row + i]);
          const int32_t code = kNibbles ? (byte >> shift) & 15 : byte;
          sum->v[row] += code * x->q[kPart][4 * j + i];
        }
      }
    }
  }

  static int32_t max_magnitude_bits(const float* x) {
    int32_t max = 0;
    for (int64_t i = 0; i < kUnit; ++i) {
      int32_t bits = 0;
      std::memcpy(&bits, x + i, sizeof bits);
      bits &= 0x7fffffff;
      max = bits > max ? bits : max;
    }
    return max;
  }
  static int32_t round_16(const float* x, float inverse, bool wide, int8_t* coarse, int8_t* fine) {
    int32_t sum = 0;
    for (int64_t i = 0; i < 16; ++i) {
      auto rounded = static_cast<int32_t>(std::nearbyint(x[i] * inverse));
      const int32_t high = (rounded + 128) >> 8;
      if (!wide) rounded = high * 256;
      coarse[i] = static_cast<int8_t>(high);
      fine[i] = static_cast<int8_t>(rounded - high * 256);
      sum += rounded;
    }
    return sum;
  }
};

constexpr LinearKernels kKernels = make_kernels<Portable>("portable");

}  // namespace

const LinearKernels* portable_kernels() { return &kKernels; }

}  // namespace troupe::cpu
