// Times DecodeAttention and PrefillAttention alone on one GPU and prints one JSON line per case:
// cuda_attention_bench [decode | prefill]   (default both)
// cuda_attention_bench decode HEADS KV_HEADS HEAD_DIM bf16|fp8 ROWS CONTEXT
// cuda_attention_bench prefill HEADS KV_HEADS HEAD_DIM bf16|fp8 CHUNKS TOKENS PREFIX
// A case is a CUDA graph of runs over as many layers as exceed the L2 cache twice; the median of
// 20 replays, divided by the runs in it. KV and queries are random.

#include "gpu/cuda/attention.h"
#include "gpu/cuda/device.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace {

using namespace troupe::cuda;

constexpr int64_t kRotate = int64_t{160} << 20;  // bytes of KV that one graph reads at least
constexpr int kReplays = 20;

__device__ float noise(uint64_t x) {
  x *= 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 29U)) * 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 32U;
  return static_cast<float>(static_cast<uint32_t>(x)) / 2147483648.0F - 1.0F;
}
__global__ void fill_bf16(__nv_bfloat16* to, int64_t n, uint64_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x)
    to[i] = __float2bfloat16(noise(static_cast<uint64_t>(i) + seed));
}
__global__ void fill_fp8(uint8_t* to, int64_t n, uint64_t seed) {  // finite codes of both signs
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float x = noise(static_cast<uint64_t>(i) + seed);
    to[i] = static_cast<uint8_t>((x < 0 ? 0x80 : 0) | static_cast<int>(fabsf(x) * 63.0F));
  }
}

template <class T>
DeviceBuffer<T> upload(const std::vector<T>& values) {
  DeviceBuffer<T> buffer(values.size());
  TROUPE_CUDA(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyHostToDevice));
  return buffer;
}

/// Layers of a pool with `slots` slots each.
struct Pool {
  Pool(const AttentionShape& shape, KvFormat kv_format, int64_t slots, int64_t min_bytes)
      : format(kv_format) {
    const int64_t element = format == KvFormat::kBf16 ? 2 : 1;
    layer_bytes = slots * shape.n_kv_heads * 2 * shape.head_dim * element;
    layers = std::max<int64_t>((min_bytes + layer_bytes - 1) / layer_bytes, 1);
    data = DeviceBuffer<uint8_t>(static_cast<size_t>(layers * layer_bytes));
    const auto n = layers * layer_bytes / element;
    if (format == KvFormat::kBf16)
      fill_bf16<<<1024, 256>>>(reinterpret_cast<__nv_bfloat16*>(data.data()), n, 7);
    else
      fill_fp8<<<1024, 256>>>(data.data(), n, 7);
    TROUPE_CUDA(cudaDeviceSynchronize());
  }
  [[nodiscard]] KvLayer layer(int64_t i) const {
    return {data.data() + (i % layers) * layer_bytes, format, 1.0F, 1.0F};
  }
  KvFormat format;
  int64_t layer_bytes = 0;
  int64_t layers = 0;
  DeviceBuffer<uint8_t> data;
};

/// Microseconds of one of `runs` runs that `enqueue(stream)` puts into a graph or a stream.
template <class Enqueue>
double time_us(int64_t runs, bool graph, const Enqueue& enqueue) {
  cudaStream_t stream = nullptr;
  TROUPE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraphExec_t exec = nullptr;
  if (graph) {
    cudaGraph_t captured = nullptr;
    TROUPE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    enqueue(stream);
    TROUPE_CUDA(cudaStreamEndCapture(stream, &captured));
    TROUPE_CUDA(cudaGraphInstantiate(&exec, captured, 0));
    TROUPE_CUDA(cudaGraphDestroy(captured));
  }
  const auto once = [&] {
    if (graph)
      TROUPE_CUDA(cudaGraphLaunch(exec, stream));
    else
      enqueue(stream);
  };
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  TROUPE_CUDA(cudaEventCreate(&begin));
  TROUPE_CUDA(cudaEventCreate(&end));
  for (int i = 0; i < 3; ++i) once();
  std::vector<double> us;
  for (int i = 0; i < kReplays; ++i) {
    TROUPE_CUDA(cudaEventRecord(begin, stream));
    once();
    TROUPE_CUDA(cudaEventRecord(end, stream));
    TROUPE_CUDA(cudaEventSynchronize(end));
    float ms = 0;
    TROUPE_CUDA(cudaEventElapsedTime(&ms, begin, end));
    us.push_back(static_cast<double>(ms) * 1e3 / static_cast<double>(runs));
  }
  TROUPE_CUDA(cudaEventDestroy(begin));
  TROUPE_CUDA(cudaEventDestroy(end));
  if (exec != nullptr) TROUPE_CUDA(cudaGraphExecDestroy(exec));
  TROUPE_CUDA(cudaStreamDestroy(stream));
  std::nth_element(us.begin(), us.begin() + kReplays / 2, us.end());
  return us[kReplays / 2];
}

/// The slot table of `rows` rows with `context` positions each.
std::vector<int32_t> slot_table(int32_t rows, int32_t context, bool random) {
  std::vector<int32_t> slots(static_cast<size_t>(rows) * static_cast<size_t>(context));
  std::iota(slots.begin(), slots.end(), 0);
  if (random) std::shuffle(slots.begin(), slots.end(), std::mt19937(5));
  return slots;
}

DeviceBuffer<__nv_bfloat16> random_bf16(int64_t n, uint64_t seed) {
  DeviceBuffer<__nv_bfloat16> x(static_cast<size_t>(n));
  fill_bf16<<<256, 256>>>(x.data(), n, seed);
  return x;
}

void decode(const AttentionShape& shape, KvFormat format, int32_t rows, int32_t context,
            bool random, bool invariant = false) {
  const int64_t slots = int64_t{rows} * context;
  const Pool pool(shape, format, slots, kRotate);
  const auto table = upload(slot_table(rows, context, random));
  std::vector<int32_t> row(static_cast<size_t>(rows));
  std::iota(row.begin(), row.end(), 0);
  const auto row_of = upload(row);
  const auto contexts = upload(std::vector<int32_t>(static_cast<size_t>(rows), context));
  const int64_t width = int64_t{shape.n_heads} * shape.head_dim;
  const auto q = random_bf16(rows * width, 99);
  DeviceBuffer<__nv_bfloat16> out(static_cast<size_t>(rows * width));
  DecodeAttention attention(shape, format, {.max_rows = rows, .batch_invariant = invariant});
  const DecodeBatch batch{rows, row_of.data(), contexts.data(), {table.data(), context}};
  attention.plan(batch, nullptr);
  const int64_t runs = std::max<int64_t>(pool.layers, 16);
  const double us = time_us(runs, true, [&](cudaStream_t stream) {
    for (int64_t i = 0; i < runs; ++i)
      attention.run(out.data(), q.data(), pool.layer(i), batch, 0.0883F, 0, stream);
  });
  const double plan_us = time_us(16, true, [&](cudaStream_t stream) {
    for (int i = 0; i < 16; ++i) attention.plan(batch, stream);
  });
  std::printf(
      "{\"bench\":\"decode_attention\",\"rows\":%d,\"context\":%d,\"heads\":%d,\"kv_heads\":%d,"
      "\"head_dim\":%d,\"format\":\"%s\",\"slots\":\"%s\",\"invariant\":%s,\"us\":%.2f,"
      "\"TBps\":%.3f,\"plan_us\":%.2f}\n",
      rows, context, shape.n_heads, shape.n_kv_heads, shape.head_dim,
      format == KvFormat::kFp8 ? "fp8" : "bf16", random ? "random" : "contiguous",
      invariant ? "true" : "false", us, static_cast<double>(pool.layer_bytes) / us * 1e-6, plan_us);
  std::fflush(stdout);
}

/// `chunks` chunks of `tokens` new tokens, each after `prefix` tokens in the pool.
void prefill(const AttentionShape& shape, KvFormat format, int32_t chunks, int32_t tokens,
             int32_t prefix) {
  const int32_t context = prefix + tokens;
  const Pool pool(shape, format, int64_t{chunks} * context, kRotate);
  const auto table = upload(slot_table(chunks, context, true));
  const int64_t width = int64_t{shape.n_heads} * shape.head_dim;
  const int64_t n = int64_t{chunks} * tokens;
  const auto q = random_bf16(n * width, 99);
  DeviceBuffer<__nv_bfloat16> out(static_cast<size_t>(n * width));
  PrefillAttention attention(shape, format, std::max(static_cast<int32_t>(n), 8192),
                             std::max(context, 32768));
  std::vector<Chunk> list;
  for (int32_t i = 0; i < chunks; ++i) list.push_back({i, i * tokens, tokens, context});
  attention.plan(list, {table.data(), context}, nullptr);
  TROUPE_CUDA(cudaDeviceSynchronize());
  const int64_t runs = std::max<int64_t>(pool.layers, 4);
  const double us = time_us(runs, false, [&](cudaStream_t stream) {
    for (int64_t i = 0; i < runs; ++i)
      attention.run(out.data(), q.data(), pool.layer(i), 0.0883F, 0, stream);
  });
  const double pairs = static_cast<double>(chunks) * tokens * (prefix + (tokens + 1) / 2.0);
  const double flop = 4.0 * pairs * shape.n_heads * shape.head_dim;
  std::printf(
      "{\"bench\":\"prefill_attention\",\"chunks\":%d,\"tokens\":%d,\"prefix\":%d,\"heads\":%d,"
      "\"kv_heads\":%d,\"head_dim\":%d,\"format\":\"%s\",\"us\":%.2f,\"TFLOPs\":%.1f}\n",
      chunks, tokens, prefix, shape.n_heads, shape.n_kv_heads, shape.head_dim,
      format == KvFormat::kFp8 ? "fp8" : "bf16", us, flop / us * 1e-6);
  std::fflush(stdout);
}

void decode_cases() {
  const AttentionShape llama8b{32, 8, 128};
  constexpr auto kBf16 = KvFormat::kBf16;
  constexpr auto kFp8 = KvFormat::kFp8;
  decode(llama8b, kBf16, 64, 1024, true);
  decode(llama8b, kBf16, 64, 1024, false);
  decode(llama8b, kBf16, 64, 1024, true, true);
  decode(llama8b, kFp8, 64, 1024, true);
  for (const int32_t context : {128, 512, 1024, 4096, 32768})
    decode(llama8b, kBf16, 1, context, true);
  for (const int32_t rows : {4, 16, 128, 256}) decode(llama8b, kBf16, rows, 1024, true);
  decode(llama8b, kBf16, 64, 1025, true);
  decode(llama8b, kBf16, 61, 1000, true);
  decode(llama8b, kFp8, 1, 512, true);
  decode(llama8b, kFp8, 256, 1024, true);
  decode({64, 8, 128}, kBf16, 32, 1024, true);  // 70B
  decode({64, 8, 128}, kBf16, 64, 1024, true);
  decode({8, 1, 128}, kBf16, 64, 1024, true);  // 70B, one rank of 8
  decode({32, 8, 64}, kBf16, 64, 1024, true);
  decode({32, 8, 64}, kFp8, 64, 1024, true);
  decode({32, 32, 128}, kBf16, 16, 1024, true);  // no groups
  decode({16, 1, 128}, kBf16, 64, 4096, true);
}

void prefill_cases() {
  const AttentionShape llama8b{32, 8, 128};
  constexpr auto kBf16 = KvFormat::kBf16;
  for (const int32_t tokens : {512, 1024, 2048, 4096, 8000, 16384})
    prefill(llama8b, kBf16, 1, tokens, 0);
  prefill(llama8b, kBf16, 8, 1024, 0);
  prefill(llama8b, kBf16, 1, 2048, 6144);
  prefill(llama8b, kBf16, 1, 64, 4096);
  prefill(llama8b, kBf16, 16, 16, 1024);
  prefill(llama8b, kBf16, 16, 50, 4096);
  prefill(llama8b, KvFormat::kFp8, 16, 50, 4096);
  prefill(llama8b, kBf16, 1, 8, 512);
  prefill(llama8b, KvFormat::kFp8, 1, 8000, 0);
  prefill({32, 8, 64}, kBf16, 1, 8000, 0);
  prefill({64, 8, 128}, kBf16, 1, 2048, 0);
  prefill({8, 1, 128}, kBf16, 1, 8000, 0);
}

}  // namespace

int main(int argc, char** argv) {
  const bool only_decode = argc > 1 && std::strcmp(argv[1], "decode") == 0;
  const bool only_prefill = argc > 1 && std::strcmp(argv[1], "prefill") == 0;
  const auto number = [&](int i) {
    return static_cast<int32_t>(std::strtol(argv[i], nullptr, 10));
  };
  if (argc > 7) {
    const AttentionShape shape{number(2), number(3), number(4)};
    const auto format = std::strcmp(argv[5], "fp8") == 0 ? KvFormat::kFp8 : KvFormat::kBf16;
    if (only_decode)
      decode(shape, format, number(6), number(7), true);
    else
      prefill(shape, format, number(6), number(7), argc > 8 ? number(8) : 0);
    return 0;
  }
  if (!only_prefill) decode_cases();
  if (!only_decode) prefill_cases();
  return 0;
}
