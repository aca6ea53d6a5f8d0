// Times cpu::attention on one layer and prints one JSON line per case:
// attention_bench [heads kv_heads head_dim [threads]]   (default 6 2 64 1: rank 0 of 2, 135M model)

#include "gpu/device/stream.h"
#include "gpu/kv_pool.h"
#include "gpu/ops/attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

namespace {

using namespace troupe;

constexpr int32_t kSlots = 8192;
constexpr int32_t kLayers = 30;  // cycled through, so that the cache holds what it would in a step

void bench(const QkvShape& shape, int32_t n_rows, int32_t n_tokens, int32_t context,
           Stream& stream) {
  KvPool pool(kLayers, kSlots, shape.n_kv_heads, shape.head_dim, DType::kF16);
  for (int32_t l = 0; l < kLayers; ++l) {
    auto* data = static_cast<uint16_t*>(pool.layer(l).data);
    for (int64_t i = 0; i < pool.bytes() / kLayers / 2; ++i)
      data[i] = static_cast<uint16_t>(0x3000 + (i * 7919) % 1024);
  }
  std::vector<int32_t> slots(kSlots);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), std::mt19937(1));
  std::vector<AttentionRow> rows;
  for (int32_t r = 0; r < n_rows; ++r)
    rows.push_back({r * n_tokens, n_tokens, context, slots.data() + (r * context) % kSlots});
  const int64_t width = int64_t{shape.n_heads + 2 * shape.n_kv_heads} * shape.head_dim;
  std::vector<float> qkv(static_cast<size_t>(n_rows * n_tokens * width));
  for (size_t i = 0; i < qkv.size(); ++i) qkv[i] = static_cast<float>(i * 31 % 101) / 50.0F - 1.0F;
  std::vector<float> out(static_cast<size_t>(n_rows * n_tokens * shape.n_heads * shape.head_dim));
  std::vector<int32_t> map;
  for (int32_t h = 0; h < shape.n_heads; ++h) map.push_back(h * shape.n_kv_heads / shape.n_heads);

  std::vector<double> times;
  for (int round = 0; round < 40; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int32_t l = 0; l < kLayers; ++l)
      cpu::attention(out.data(), qkv.data(), pool.layer(l), shape, map, rows, 0.125F, 0, stream);
    const std::chrono::duration<double, std::micro> us = std::chrono::steady_clock::now() - start;
    if (round >= 2) times.push_back(us.count() / kLayers);
  }
  std::sort(times.begin(), times.end());
  std::printf(
      "{\"bench\":\"attention\",\"rows\":%d,\"tokens\":%d,\"context\":%d,\"heads\":%d,"
      "\"kv_heads\":%d,\"head_dim\":%d,\"threads\":%d,\"isa\":%d,\"us_per_layer\":%.1f,"
      "\"us_best\":%.1f}\n",
      n_rows, n_tokens, context, shape.n_heads, shape.n_kv_heads, shape.head_dim,
      stream.n_threads(), static_cast<int>(stream.isa()), times[times.size() / 2], times.front());
}

}  // namespace

int main(int argc, char** argv) {
  QkvShape shape{6, 2, 64};
  if (argc > 3) shape = {std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3])};
  Stream stream(argc > 4 ? std::atoi(argv[4]) : 1);
  bench(shape, 1, 1, 128, stream);
  bench(shape, 1, 1, 1024, stream);
  bench(shape, 16, 1, 256, stream);
  bench(shape, 1, 512, 512, stream);
  bench(shape, 1, 512, 1024, stream);
  return 0;
}
