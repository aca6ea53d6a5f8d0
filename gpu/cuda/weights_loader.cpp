#include "gpu/cuda/weights_loader.h"

#include "gpu/base/check.h"
#include "gpu/base/half.h"
#include "gpu/cuda/device.h"
#include "gpu/cuda/quantize.h"
#include "gpu/quant/dequantize.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace troupe::cuda {
namespace {

constexpr size_t kBlockBytes = size_t{8} << 20;  // of a thread's pinned buffer
constexpr int kBuffers = 2;                      // a thread fills one while the other is copied

/// Some rows of one slice: the unit of work.
struct Block {
  const Placement* placement = nullptr;
  const TensorView* tensor = nullptr;
  Range rows;  // of the tensor
  Range cols;
  int64_t to_row = 0;  // of the placement
};

bool is_quantised(DType t) { return block_elements(t) > 1; }

/// Bytes a value takes in the pinned buffer: GGUF blocks are expanded to bf16 on the host.
int64_t staged_bytes(DType t) { return is_quantised(t) ? 2 : block_bytes(t); }

/// Faults the pages of a mapping in at once rather than one by one. Only a hint.
void populate(const std::byte* data, int64_t bytes) {
#ifdef MADV_POPULATE_READ
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): madvise takes the page, not the tensor
  static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ));
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

/// The block's values, dense, as they go over the bus.
void stage(const Block& b, std::byte* to) {
  const TensorView& t = *b.tensor;
  const int64_t pitch = t.row_bytes();
  const int64_t width = b.cols.size();
  populate(t.data + b.rows.begin * pitch, b.rows.size() * pitch);
  if (is_quantised(t.dtype)) {
    std::vector<float> values(static_cast<size_t>(width));
    auto* out = reinterpret_cast<uint16_t*>(to);
    for (int64_t r = b.rows.begin; r < b.rows.end; ++r) {
      dequantize_row(t.dtype, t.data + r * pitch, b.cols.begin, b.cols.end, values.data());
      out = std::transform(values.begin(), values.end(), out, bf16_from_float);
    }
    return;
  }
  const int64_t element = block_bytes(t.dtype);
  const std::byte* from = t.data + b.rows.begin * pitch + b.cols.begin * element;
  if (width == t.cols()) {
    std::memcpy(to, from, static_cast<size_t>(b.rows.size() * pitch));
    return;
  }
  for (int64_t r = 0; r < b.rows.size(); ++r) {
    std::memcpy(to + r * width * element, from + r * pitch, static_cast<size_t>(width * element));
  }
}

/// The scales of an e4m3 tensor's rows.
std::vector<float> scales_of(const Checkpoint& checkpoint, const std::string& name, Range rows) {
  const TensorView* scale = checkpoint.find(name + "_scale");
  TROUPE_CHECK(scale != nullptr) << name;  // the checkpoint was checked when it was opened
  const int64_t n = scale->bytes / block_bytes(scale->dtype);
  std::vector<float> out;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t i = n == 1 ? 0 : r;
    float value = 0.0F;
    dequantize_row(scale->dtype, scale->data + i * block_bytes(scale->dtype), 0, 1, &value);
    out.push_back(value);
  }
  return out;
}

/// What one loading thread owns on the device and in pinned memory.
class Lane {
 public:
  Lane(const Checkpoint& checkpoint, std::byte* memory, size_t buffer_bytes)
      : checkpoint_(checkpoint),
        memory_(memory),
        raw_(buffer_bytes),
        values_(buffer_bytes),
        scales_(buffer_bytes / 16) {
    TROUPE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (Buffer& b : buffers_) {
      TROUPE_CUDA(cudaHostAlloc(&b.data, buffer_bytes, cudaHostAllocDefault));
      TROUPE_CUDA(cudaEventCreateWithFlags(&b.copied, cudaEventDisableTiming));
    }
  }
  ~Lane() {
    cudaStreamSynchronize(stream_);
    for (const Buffer& b : buffers_) {
      cudaFreeHost(b.data);
      if (b.copied != nullptr) cudaEventDestroy(b.copied);
    }
    cudaStreamDestroy(stream_);
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void load(const Block& b) {
    Buffer& buffer = buffers_[next_];
    next_ = (next_ + 1) % kBuffers;
    TROUPE_CUDA(cudaEventSynchronize(buffer.copied));
    stage(b, buffer.data);
    send(b, buffer.data);
    TROUPE_CUDA(cudaEventRecord(buffer.copied, stream_));
  }
  void finish() { TROUPE_CUDA(cudaStreamSynchronize(stream_)); }

 private:
  struct Buffer {
    std::byte* data = nullptr;
    cudaEvent_t copied = nullptr;
  };

  void copy(void* to, const void* from, int64_t bytes) {
    TROUPE_CUDA(
        cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_));
  }

  /// Staged values -> their place in their format. The lane's scratch is used in stream order.
  void send(const Block& b, const std::byte* staged) {
    const Placement& p = *b.placement;
    const DType type = b.tensor->dtype;
    const int64_t n = b.rows.size() * p.cols;
    const int64_t first = b.to_row * p.cols;
    const bool to_fp8 = p.format == WeightFormat::kFp8;
    std::byte* place = memory_ + p.offset;
    auto* place_scale = reinterpret_cast<float*>(memory_ + p.scale_offset) + b.to_row;
    if (type == DType::kF8E4M3) {
      const std::vector<float> scales = scales_of(checkpoint_, name_of(b), b.rows);
      const auto scale_bytes = static_cast<int64_t>(scales.size() * sizeof(float));
      if (to_fp8) {
        copy(place + first, staged, n);
        copy(place_scale, scales.data(), scale_bytes);
      } else {
        copy(raw_.data(), staged, n);
        copy(scales_.data(), scales.data(), scale_bytes);
        expand_weights(reinterpret_cast<__nv_bfloat16*>(place) + first,
                       reinterpret_cast<const uint8_t*>(raw_.data()), scales_.data(), b.rows.size(),
                       p.cols, stream_);
      }
      finish();  // `scales` is pageable and ends here
      return;
    }
    auto* values = to_fp8 ? reinterpret_cast<__nv_bfloat16*>(values_.data())
                          : reinterpret_cast<__nv_bfloat16*>(place) + first;
    if (type == DType::kF32 || type == DType::kF16) {
      copy(raw_.data(), staged, n * staged_bytes(type));
      if (type == DType::kF32) {
        to_bf16(values, reinterpret_cast<const float*>(raw_.data()), n, stream_);
      } else {
        to_bf16_from_f16(values, raw_.data(), n, stream_);
      }
    } else {
      copy(values, staged, n * 2);
    }
    if (to_fp8) {
      quantize_weights(reinterpret_cast<uint8_t*>(place) + first, place_scale, values,
                       b.rows.size(), p.cols, stream_);
    }
  }
  static const std::string& name_of(const Block& b) {
    for (const SourceSlice& s : b.placement->slices) {
      if (b.to_row >= s.to_row && b.to_row < s.to_row + s.rows.size()) return s.name;
    }
    return b.placement->slices.front().name;
  }

  const Checkpoint& checkpoint_;
  std::byte* memory_;
  cudaStream_t stream_ = nullptr;
  Buffer buffers_[kBuffers];
  int next_ = 0;
  DeviceBuffer<std::byte> raw_;     // as in the file
  DeviceBuffer<std::byte> values_;  // bf16, to be quantised
  DeviceBuffer<float> scales_;
};

Error missing(const Checkpoint& checkpoint, const SourceSlice& s) {
  return fail(ErrorCode::kBadModel,
              checkpoint.path() + ": tensor " + s.name + " is missing; the file is incomplete");
}

Error misfit(const Checkpoint& checkpoint, const TensorView& t) {
  return fail(ErrorCode::kBadModel, checkpoint.path() + ": tensor " + t.name +
                                        " does not have the shape that the config asks for");
}

/// All matrices cut into blocks, in file order. `largest`: bytes of a buffer that holds any of
/// them.
Result<std::vector<Block>> cut_blocks(const Checkpoint& checkpoint, const WeightsPlan& plan,
                                      size_t& largest) {
  std::vector<Block> blocks;
  for (const Placement& p : plan.matrices) {
    if (p.rows == 0 || p.cols == 0) continue;
    for (const SourceSlice& s : p.slices) {
      const TensorView* t = checkpoint.find(s.name);
      if (t == nullptr) return missing(checkpoint, s);
      if (t->shape.size() != 2 || s.rows.end > t->rows() || s.cols.end > t->cols()) {
        return misfit(checkpoint, *t);
      }
      const auto row_bytes = static_cast<size_t>(p.cols * staged_bytes(t->dtype));
      const auto at_once = static_cast<int64_t>(std::max<size_t>(kBlockBytes / row_bytes, 1));
      for (int64_t r = s.rows.begin; r < s.rows.end; r += at_once) {
        const Range rows = {r, std::min(r + at_once, s.rows.end)};
        blocks.push_back({&p, t, rows, s.cols, s.to_row + r - s.rows.begin});
        largest = std::max(largest, static_cast<size_t>(rows.size()) * static_cast<size_t>(p.cols) *
                                        sizeof(float));
      }
    }
  }
  std::stable_sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) {
    return a.tensor->data + a.rows.begin * a.tensor->row_bytes() <
           b.tensor->data + b.rows.begin * b.tensor->row_bytes();
  });
  return blocks;
}

/// Norms and biases: few bytes, expanded on the host and copied in one piece.
Status load_vectors(const Checkpoint& checkpoint, const WeightsPlan& plan, std::byte* memory) {
  std::vector<std::byte> image(plan.vector_bytes);
  std::vector<float> values;
  for (const Placement& p : plan.vectors) {
    auto* out = reinterpret_cast<uint16_t*>(image.data() + p.offset);
    for (const SourceSlice& s : p.slices) {
      const TensorView* t = checkpoint.find(s.name);
      if (t == nullptr) return missing(checkpoint, s);
      if (t->rows() != 1 || s.cols.end > t->cols() || is_quantised(t->dtype)) {
        return misfit(checkpoint, *t);
      }
      values.resize(static_cast<size_t>(s.cols.size()));
      dequantize_row(t->dtype, t->data, s.cols.begin, s.cols.end, values.data());
      out = std::transform(values.begin(), values.end(), out, bf16_from_float);
    }
  }
  TROUPE_CUDA(cudaMemcpy(memory, image.data(), image.size(), cudaMemcpyHostToDevice));
  return ok_status();
}

}  // namespace

Status load_weights(const Checkpoint& checkpoint, const WeightsPlan& plan, std::byte* memory,
                    int32_t n_threads) {
  if (Status status = load_vectors(checkpoint, plan, memory); !status) return status;
  size_t largest = 16;
  const Result<std::vector<Block>> blocks = cut_blocks(checkpoint, plan, largest);
  if (!blocks) return blocks.error();
  int device = 0;
  TROUPE_CUDA(cudaGetDevice(&device));

  std::atomic<size_t> next = 0;
  std::mutex mutex;  // guards failure
  std::exception_ptr failure;
  const auto work = [&] {
    try {
      TROUPE_CUDA(cudaSetDevice(device));
      Lane lane(checkpoint, memory, largest);
      for (size_t i = next++; i < blocks->size(); i = next++) lane.load((*blocks)[i]);
      lane.finish();
    } catch (...) {
      next = blocks->size();  // the others stop too
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    const auto n =
        std::clamp<size_t>(blocks->size(), 1, static_cast<size_t>(std::max(n_threads, 1)));
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < n; ++i) threads.emplace_back(work);
  }
  if (failure) std::rethrow_exception(failure);
  return ok_status();
}

}  // namespace troupe::cuda
