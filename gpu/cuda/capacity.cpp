#include "gpu/cuda/capacity.h"

#include "gpu/cuda/device.h"
#include "gpu/cuda/step_state.h"
#include "gpu/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace troupe::cuda {
namespace {

Error unusable(std::string why) {
  return fail(ErrorCode::kInvalidArgument, std::move(why) + ", or use --device cpu", "device");
}

std::string mib(size_t bytes) { return mebibytes(static_cast<int64_t>(bytes)); }

}  // namespace

Result<DeviceInfo> use_device(int32_t index) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
    return unusable("there is no NVIDIA driver; install one");
  if (found == cudaErrorInsufficientDriver)
    return unusable("the NVIDIA driver is older than CUDA " +
                    std::to_string(CUDART_VERSION / 1000) + "." +
                    std::to_string(CUDART_VERSION % 1000 / 10) + " needs; update it");
  if (found == cudaErrorNoDevice || (found == cudaSuccess && count == 0))
    return unusable("no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES");
  if (found != cudaSuccess)
    return unusable(std::string("the GPU does not answer (") + cudaGetErrorString(found) +
                    "); check nvidia-smi");
  if (index < 0 || index >= count)
    return unusable("this rank would need GPU " + std::to_string(index) +
                    " of this host, which has " + std::to_string(count) +
                    "; start fewer ranks on it");
  TROUPE_CUDA(cudaSetDevice(index));
  cudaDeviceProp properties = {};
  TROUPE_CUDA(cudaGetDeviceProperties(&properties, index));
  const std::string name = std::string(properties.name) + " (compute capability " +
                           std::to_string(properties.major) + "." +
                           std::to_string(properties.minor) + ")";
  if (properties.major < 8)
    return unusable("the GPU is a " + name + "; 8.0 or later is needed, use another");
  if (!has_kernels())
    return unusable("this program has no code for the " + name +
                    "; build it with -DCMAKE_CUDA_ARCHITECTURES=" +
                    std::to_string(properties.major) + std::to_string(properties.minor));
  DeviceInfo info;
  info.name = properties.name;
  TROUPE_CUDA(cudaMemGetInfo(&info.free_bytes, &info.total_bytes));
  return info;
}

Status check_model(const ModelConfig& c, const Shard& s, int32_t n_ranks) {
  const auto refuse = [&](const std::string& what) {
    return fail(ErrorCode::kInvalidArgument, what + "; use --device cpu", "device");
  };
  if (c.head_dim != 64 && c.head_dim != 128)
    return refuse("heads of " + std::to_string(c.head_dim) +
                  " are not supported on GPUs (64 and 128 are)");
  if (c.rope.rotary_dim % 16 != 0)
    return refuse("a rotary dimension of " + std::to_string(c.rope.rotary_dim) +
                  " is not supported on GPUs (multiples of 16 are)");
  const auto n_heads = static_cast<int32_t>(s.query_heads.size());
  const auto n_kv = static_cast<int32_t>(s.kv_heads.size());
  bool even = n_heads > 0 && n_kv > 0 && n_heads % n_kv == 0;
  for (int32_t h = 0; even && h < n_heads; ++h)
    even = s.kv_head_of[static_cast<size_t>(h)] == h / (n_heads / n_kv);
  if (!even)
    return fail(ErrorCode::kInvalidArgument,
                "--tp " + std::to_string(n_ranks) + " does not divide the model's " +
                    std::to_string(c.n_heads) + " heads and " + std::to_string(c.n_kv_heads) +
                    " KV heads evenly, which GPUs need",
                "tp");
  if (n_heads / n_kv > 16)
    return refuse("more than 16 query heads a KV head are not supported on GPUs");
  if (c.hidden % 16 != 0 || s.ffn.size() % 16 != 0 || s.ffn.size() == 0 || c.hidden > 32768 ||
      s.ffn.size() > 32768)
    return refuse("a hidden size of " + std::to_string(c.hidden) + " with an MLP of " +
                  std::to_string(s.ffn.size()) +
                  " is not supported on GPUs (multiples of 16 up to 32768 are)");
  return ok_status();
}

size_t margin_bytes(size_t total_bytes) { return std::max(total_bytes / 50, size_t{512} << 20); }

Status check_fit(const DeviceInfo& device, const DeviceNeed& need, int32_t n_slots) {
  const size_t margin = margin_bytes(device.total_bytes);
  const size_t fixed = need.weights + need.workspace + margin;
  const size_t kv = need.kv_per_slot * (static_cast<size_t>(n_slots) + 1);
  if (fixed + kv <= device.free_bytes) return ok_status();
  std::string text = "the rank needs " + mib(fixed + kv) + " (weights " + mib(need.weights) +
                     ", KV " + mib(kv) + ", workspace " + mib(need.workspace) + ", reserve " +
                     mib(margin) + "), the " + device.name + " has " + mib(device.free_bytes) +
                     " free of " + mib(device.total_bytes) + "; ";
  const size_t left = device.free_bytes > fixed ? device.free_bytes - fixed : 0;
  const size_t fitting = left / std::max<size_t>(1, need.kv_per_slot);
  text += fitting > 1 ? "lower --kv-tokens to at most " + std::to_string(fitting - 1)
                      : "the weights do not fit: quantise them to fp8 or spread them over GPUs";
  return fail(ErrorCode::kOutOfMemory, std::move(text), "kv_tokens");
}

std::vector<int32_t> decode_buckets(int32_t max_rows) {
  std::vector<int32_t> out;
  for (const int32_t n : {1, 2, 4, 8, 12, 16, 24})
    if (n < max_rows) out.push_back(n);
  for (int32_t n = 32; n < max_rows; n += n < 256 ? 16 : 32) out.push_back(n);
  out.push_back(max_rows);
  return out;
}

}  // namespace troupe::cuda
