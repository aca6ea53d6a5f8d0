#include "gpu/cuda/capacity.h"

#include "gpu/cuda/device.h"
#include "gpu/cuda/step_state.h"
#include "gpu/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace troupe::cuda {
namespace {

// Prefill attention and the multiplies for few tokens use instructions of 9.0a.
constexpr int kComputeMajor = 9;

std::string version(int cuda) {
  return std::to_string(cuda / 1000) + "." + std::to_string(cuda % 1000 / 10);
}

std::string mib(size_t bytes) { return mebibytes(static_cast<int64_t>(bytes)); }

}  // namespace

std::string device_problem(const DeviceFacts& f) {
  constexpr const char* kElse = ", or use --device cpu";
  if (f.driver == 0) return std::string("there is no NVIDIA driver; install one") + kElse;
  if (f.found == cudaErrorInsufficientDriver || f.driver / 1000 < f.runtime / 1000)
    return "the NVIDIA driver knows CUDA " + version(f.driver) + ", this program needs " +
           version(f.runtime) + "; update the driver" + kElse;
  if (f.found == cudaErrorNoDevice || (f.found == cudaSuccess && f.count == 0))
    return std::string("no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES") +
           kElse;
  if (f.found != cudaSuccess)
    return std::string("the GPU does not answer (") + cudaGetErrorString(f.found) +
           "); check nvidia-smi" + kElse;
  const std::string gpu = f.name + " (compute capability " + std::to_string(f.major) + "." +
                          std::to_string(f.minor) + ")";
  if (f.major != kComputeMajor)
    return "the GPU is a " + gpu + ", but there are kernels for 9.0 (Hopper) only; use another" +
           kElse;
  if (!f.has_kernels)
    return "this program has no code for the " + gpu +
           "; build it with -DCMAKE_CUDA_ARCHITECTURES=90a" + kElse;
  return "";
}

Result<DeviceInfo> use_device(int32_t index) {
  DeviceFacts facts;
  facts.runtime = CUDART_VERSION;
  facts.found = cudaGetDeviceCount(&facts.count);
  if (cudaDriverGetVersion(&facts.driver) != cudaSuccess) facts.driver = 0;
  if (facts.found == cudaSuccess && facts.count > 0) {
    if (index < 0 || index >= facts.count)
      return fail(ErrorCode::kInvalidArgument,
                  "this rank would need GPU " + std::to_string(index) +
                      " of this host, which has " + std::to_string(facts.count) +
                      "; start fewer ranks on it",
                  "device");
    TROUPE_CUDA(cudaSetDevice(index));
    cudaDeviceProp properties = {};
    TROUPE_CUDA(cudaGetDeviceProperties(&properties, index));
    facts.name = properties.name;
    facts.major = properties.major;
    facts.minor = properties.minor;
    facts.has_kernels = has_kernels();
  }
  if (std::string problem = device_problem(facts); !problem.empty())
    return fail(ErrorCode::kInvalidArgument, std::move(problem), "device");
  DeviceInfo info;
  info.name = facts.name;
  TROUPE_CUDA(cudaMemGetInfo(&info.free_bytes, &info.total_bytes));
  return info;
}

int32_t usable_gpus() {
  int count = 0;
  int32_t usable = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return 0;
  for (int i = 0; i < count; ++i) {
    int major = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i) == cudaSuccess &&
        major == kComputeMajor)
      ++usable;
  }
  return usable;
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
  const auto slots_beside = [&](size_t weights) -> size_t {
    const size_t taken = weights + need.workspace + margin;
    return taken < device.free_bytes
               ? (device.free_bytes - taken) / std::max<size_t>(1, need.kv_per_slot)
               : 0;
  };
  const size_t beside_fp8 = need.weights_fp8 > 0 ? slots_beside(need.weights_fp8) : 0;
  if (slots_beside(need.weights) > 1) {
    text += "lower --kv-tokens to at most " + std::to_string(slots_beside(need.weights) - 1);
  } else if (beside_fp8 > 1) {
    text += "--weights fp8 takes " + mib(need.weights_fp8) + " for them and leaves room for " +
            std::to_string(beside_fp8 - 1) + " KV tokens";
  } else {
    const size_t room = device.free_bytes - std::min(device.free_bytes, need.workspace + margin);
    const size_t least = need.weights_fp8 > 0 ? need.weights_fp8 : need.weights;
    text += room > 0
                ? "spread the weights over " + std::to_string(least / room + 1) +
                      " GPUs or more with --tp" + (need.weights_fp8 > 0 ? " and --weights fp8" : "")
                : "free memory on the GPU first";
  }
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
