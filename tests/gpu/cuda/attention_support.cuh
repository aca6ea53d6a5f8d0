#pragma once

#include "gpu/cuda/attention_simple.h"
#include "gpu/cuda/device.h"

#include <cuda_fp8.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

/// Random attention problems that host and device make from the same hash, so that nothing large is
/// copied: the K and V of (row, position) are a function of both, whatever slot they lie in.
namespace troupe::cuda::test {

#define TROUPE_SKIP_WITHOUT_GPU()                                           \
  do {                                                                      \
    int devices = 0;                                                        \
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)        \
      GTEST_SKIP() << "no CUDA device: the kernels were compiled, not run"; \
  } while (false)

__host__ __device__ inline uint32_t mix(uint32_t a, uint32_t b) {
  uint64_t x = (uint64_t{a} << 32U | b) * 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 29U)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 32U)) * 0x94d049bb133111ebULL;
  return static_cast<uint32_t>(x >> 32U);
}
/// Roughly normal, variance 1.
__host__ __device__ inline float noise(uint32_t a, uint32_t b) {
  const uint32_t x = mix(a, b);
  const uint32_t y = mix(b ^ 0x5bd1e995U, a);
  const float sum = static_cast<float>(x & 0xffffU) + static_cast<float>(x >> 16U) +
                    static_cast<float>(y & 0xffffU) + static_cast<float>(y >> 16U);
  return (sum / 65536.0F - 2.0F) * 1.7320508F;
}

__host__ __device__ inline void encode(__nv_bfloat16& to, float x) { to = __float2bfloat16(x); }
__host__ __device__ inline void encode(__nv_fp8_e4m3& to, float x) { to = __nv_fp8_e4m3(x); }

template <class T>
__global__ void fill_slots(T* pool, const int32_t* slots, const uint32_t* keys, int64_t n,
                           int32_t width) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n * width; i += step) {
    const int64_t at = i / width;
    const auto e = static_cast<uint32_t>(i % width);
    encode(pool[slots[at] * static_cast<int64_t>(width) + e], noise(keys[at], e));
  }
}

template <class T>
DeviceBuffer<T> upload(const std::vector<T>& values) {
  DeviceBuffer<T> buffer(std::max<size_t>(values.size(), 1));
  TROUPE_CUDA(
      cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return buffer;
}
template <class T>
std::vector<T> download(const DeviceBuffer<T>& buffer) {
  std::vector<T> values(buffer.size());
  TROUPE_CUDA(cudaMemcpy(values.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost));
  return values;
}

struct Problem {
  AttentionShape shape;
  KvFormat format = KvFormat::kBf16;
  std::vector<int32_t> length;  // positions of each row
  int64_t n_slots = 0;
  uint32_t seed = 1;  // of the slot numbers only

  [[nodiscard]] int32_t width() const { return shape.n_kv_heads * 2 * shape.head_dim; }
  [[nodiscard]] float scale() const { return 1.0F / std::sqrt(static_cast<float>(shape.head_dim)); }
  [[nodiscard]] static uint32_t key(int32_t row, int32_t position) {
    return static_cast<uint32_t>(row) * 1048576U + static_cast<uint32_t>(position);
  }
  [[nodiscard]] size_t q_size(int32_t tokens) const {
    return static_cast<size_t>(tokens) * static_cast<size_t>(shape.n_heads * shape.head_dim);
  }
};

/// The pool with every unused slot NaN, and the slot table. Rows are named by `names`, so that a
/// permuted problem holds the same values.
class Pool {
 public:
  Pool(const Problem& p, const std::vector<int32_t>& names)
      : bytes_(static_cast<size_t>(p.n_slots) * static_cast<size_t>(p.width()) *
               (p.format == KvFormat::kBf16 ? 2 : 1)) {
    TROUPE_CUDA(cudaMemset(bytes_.data(), 0xff, bytes_.bytes()));
    stride_ = *std::max_element(p.length.begin(), p.length.end()) + 3;
    std::vector<int32_t> free(static_cast<size_t>(p.n_slots));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), std::mt19937(p.seed));
    // Entries past a row's length name a slot of NaN: never to be read.
    std::vector<int32_t> table(p.length.size() * static_cast<size_t>(stride_), free.back());
    std::vector<int32_t> used;
    std::vector<uint32_t> keys;
    for (size_t r = 0; r < p.length.size(); ++r) {
      for (int32_t i = 0; i < p.length[r]; ++i) {
        table[r * static_cast<size_t>(stride_) + static_cast<size_t>(i)] = free[used.size()];
        used.push_back(free[used.size()]);
        keys.push_back(Problem::key(names[r], i));
      }
    }
    EXPECT_LT(used.size(), free.size()) << "the pool is too small";
    table_ = upload(table);
    const auto slots = upload(used);
    const auto names_of = upload(keys);
    const auto n = static_cast<int64_t>(used.size());
    if (p.format == KvFormat::kBf16)
      fill_slots<<<512, 256>>>(reinterpret_cast<__nv_bfloat16*>(bytes_.data()), slots.data(),
                               names_of.data(), n, p.width());
    else
      fill_slots<<<512, 256>>>(reinterpret_cast<__nv_fp8_e4m3*>(bytes_.data()), slots.data(),
                               names_of.data(), n, p.width());
    TROUPE_CUDA(cudaDeviceSynchronize());
    layer_ = {bytes_.data(), p.format, 0.75F, 1.5F};  // the scales are for fp8 only
  }
  explicit Pool(const Problem& p) : Pool(p, identity(p.length.size())) {}

  [[nodiscard]] const KvLayer& layer() const { return layer_; }
  [[nodiscard]] SlotTable table() const { return {table_.data(), stride_}; }

  static std::vector<int32_t> identity(size_t n) {
    std::vector<int32_t> names(n);
    std::iota(names.begin(), names.end(), 0);
    return names;
  }

 private:
  DeviceBuffer<uint8_t> bytes_;
  DeviceBuffer<int32_t> table_;
  int64_t stride_ = 0;
  KvLayer layer_;
};

/// The query of token `name`; heads differ in how peaked their softmax is.
inline float query(const Problem& p, int32_t name, int32_t e) {
  const int32_t head = e / p.shape.head_dim;
  return noise(0x40000000U + static_cast<uint32_t>(name), static_cast<uint32_t>(e)) *
         static_cast<float>(1 + 2 * (head % 3));
}
inline std::vector<__nv_bfloat16> queries(const Problem& p, const std::vector<int32_t>& names) {
  const int32_t width = p.shape.n_heads * p.shape.head_dim;
  std::vector<__nv_bfloat16> q;
  q.reserve(names.size() * static_cast<size_t>(width));
  for (const int32_t name : names)
    for (int32_t e = 0; e < width; ++e) q.push_back(__float2bfloat16(query(p, name, e)));
  return q;
}

/// The attention of one token in fp64 on the values as stored, [n_heads * head_dim].
inline std::vector<double> reference(const Problem& p, const __nv_bfloat16* q, int32_t row,
                                     int32_t context, int32_t window) {
  const int32_t dim = p.shape.head_dim;
  const bool fp8 = p.format == KvFormat::kFp8;
  const auto kv = [&](int32_t position, int32_t e) {
    const float x = noise(Problem::key(row, position), static_cast<uint32_t>(e));
    return fp8 ? static_cast<float>(__nv_fp8_e4m3(x)) : __bfloat162float(__float2bfloat16(x));
  };
  const int32_t begin = window > 0 ? std::max(context - window, 0) : 0;
  const int32_t group = p.shape.n_heads / p.shape.n_kv_heads;
  std::vector<double> out(static_cast<size_t>(p.shape.n_heads * dim));
  std::vector<float> k(static_cast<size_t>(2 * dim));
  for (int32_t g = 0; g < p.shape.n_kv_heads; ++g) {
    std::vector<double> max(static_cast<size_t>(group), -INFINITY);
    std::vector<double> sum(static_cast<size_t>(group));
    for (int32_t i = begin; i < context; ++i) {
      for (int32_t d = 0; d < 2 * dim; ++d) k[static_cast<size_t>(d)] = kv(i, g * 2 * dim + d);
      for (int32_t h = 0; h < group; ++h) {
        const auto head = static_cast<size_t>(g * group + h);
        double s = 0;
        for (int32_t d = 0; d < dim; ++d)
          s += static_cast<double>(__bfloat162float(q[head * static_cast<size_t>(dim) + d])) *
               static_cast<double>(k[static_cast<size_t>(d)]);
        s *= static_cast<double>(p.scale()) * (fp8 ? 0.75 : 1.0);
        const auto j = static_cast<size_t>(h);
        const double next = std::max(max[j], s);
        const double keep = std::exp(max[j] - next);
        const double weight = std::exp(s - next);
        max[j] = next;
        sum[j] = sum[j] * keep + weight;
        for (int32_t d = 0; d < dim; ++d) {
          double& o = out[head * static_cast<size_t>(dim) + static_cast<size_t>(d)];
          o = o * keep + weight * static_cast<double>(k[static_cast<size_t>(dim + d)]);
        }
      }
    }
    for (int32_t h = 0; h < group; ++h)
      for (int32_t d = 0; d < dim; ++d)
        out[static_cast<size_t>((g * group + h) * dim + d)] *=
            (fp8 ? 1.5 : 1.0) / sum[static_cast<size_t>(h)];
  }
  return out;
}

/// ||out - ref|| / ||ref|| of one token; NaN stays NaN.
template <class Reference>
double distance(const __nv_bfloat16* out, const Reference* ref, size_t n) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < n; ++i) {
    const auto r = static_cast<double>(static_cast<float>(ref[i]));
    const double e = static_cast<double>(__bfloat162float(out[i])) - r;
    error += e * e;
    norm += r * r;
  }
  return std::sqrt(error / norm);
}
inline double tolerance(KvFormat format) { return format == KvFormat::kFp8 ? 4e-3 : 3e-3; }

inline bool bitwise_equal(const std::vector<__nv_bfloat16>& a,
                          const std::vector<__nv_bfloat16>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 2) == 0;
}

}  // namespace troupe::cuda::test
