// Times cpu::attention on one layer and prints one JSON line per case:
// attention_bench [heads kv_heads head_dim [threads]]   (default 6 2 64 1: rank 0 of 2, 135M model)
// attention_bench --smoke                                  a small case, no figures

#include "gpu/device/stream.h"
#include "gpu/kv_pool.h"
#include "gpu/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

#include <time.h>

namespace {

using namespace troupe;

constexpr int32_t kSlots = 8192;
constexpr int32_t kLayers = 30;  // cycled through, so that the cache holds what it would in a step

double now_us(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

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

  std::vector<double> wall;
  std::vector<double> busy;  // of the calling thread: what counts on a shared machine
  for (int round = 0; round < 32; ++round) {
    const double wall_start = now_us(CLOCK_MONOTONIC);
    const double busy_start = now_us(CLOCK_THREAD_CPUTIME_ID);
    for (int32_t l = 0; l < kLayers; ++l)
      cpu::attention(out.data(), qkv.data(), pool.layer(l), shape, map, rows, 0.125F, 0, stream);
    wall.push_back((now_us(CLOCK_MONOTONIC) - wall_start) / kLayers);
    busy.push_back((now_us(CLOCK_THREAD_CPUTIME_ID) - busy_start) / kLayers);
  }
  std::sort(wall.begin(), wall.end());
  std::sort(busy.begin(), busy.end());
  std::printf(
      "{\"bench\":\"attention\",\"rows\":%d,\"tokens\":%d,\"context\":%d,\"heads\":%d,"
      "\"kv_heads\":%d,\"head_dim\":%d,\"threads\":%d,\"isa\":%d,\"us_per_layer\":%.1f,"
      "\"us_best\":%.1f,\"cpu_us_per_layer\":%.1f,\"cpu_us_best\":%.1f}\n",
      n_rows, n_tokens, context, shape.n_heads, shape.n_kv_heads, shape.head_dim,
      stream.n_threads(), static_cast<int>(stream.isa()), wall[wall.size() / 2], wall.front(),
      busy[busy.size() / 2], busy.front());
}

}  // namespace

int main(int argc, char** argv) {
  QkvShape shape{6, 2, 64};
  if (argc > 1 && std::string_view(argv[1]) == "--smoke") {
    Stream one(1);
    bench(shape, 2, 3, 16, one);
    return 0;
  }
  if (argc > 3) shape = {std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3])};
  Stream stream(argc > 4 ? std::atoi(argv[4]) : 1);
  bench(shape, 1, 1, 128, stream);
  bench(shape, 1, 1, 1024, stream);
  bench(shape, 16, 1, 256, stream);
  bench(shape, 1, 512, 512, stream);
  bench(shape, 1, 512, 1024, stream);
  return 0;
}
